"""lm-eval's harness against this server: `make clients` installs it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from fakehub import checkpoints
from fakehub.tiny_tokenizer import WORDS
from test_serve.live_pods import LiveForkServer, LiveGateway, child_pod, gateway_process
from test_serve.test_clients import HERE, INSTALLED

HARNESS = INSTALLED / "evaluation"


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Path:
    """Random weights of a real architecture, in a precision that leaves nothing to rounding."""
    return checkpoints.make("llama", folder / "evaluated", dtype="float32")


@pytest.fixture(scope="module")
def evaluated(folder: Path, forks: LiveForkServer, checkpoint: Path) -> Iterator[LiveGateway]:
    logs = folder / "evaluation"
    logs.mkdir()
    with child_pod(forks, logs, checkpoint, "tiny") as pod, gateway_process(logs, pod) as running:
        yield running


def likeliest_word(client: openai.OpenAI, context: str) -> tuple[str, str] | None:
    """The context and what goes on from it greedily, if that is a word."""
    text = client.completions.create(model="tiny", prompt=context, max_tokens=1, temperature=0).choices[0].text
    return (context, text) if text.strip().isalpha() and text.isascii() and text[0] == " " else None


@pytest.mark.skipif(not (HARNESS / "lm_eval").is_dir(), reason="lm-eval is not installed: make clients")
def test_loglikelihoods_are_those_of_lm_evals_own_backend(evaluated: LiveGateway, checkpoint: Path) -> None:
    with openai.OpenAI(base_url=f"{evaluated.url}/v1", api_key="none", max_retries=0) as client:
        context, greedy = next(filter(None, (likeliest_word(client, word) for word in WORDS)))
    done = subprocess.run(
        [
            sys.executable, str(HERE / "lm_eval_loglikelihoods.py"), evaluated.url, "tiny", str(checkpoint),
            context, greedy,
        ],
        env=os.environ | {"PYTHONPATH": str(HARNESS), "OPENAI_API_KEY": "none", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    worst, alike, greedy = done.stdout.split()[-3:]
    assert float(worst) < 1e-2
    assert (alike, greedy) == ("True", "1")
