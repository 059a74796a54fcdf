"""Other people's clients, unchanged, against a real model behind the gateway; `make clients` installs them.

Each script of clients/ is the first example of its library's documentation. A model answers whose words are known.
"""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from test_serve.conftest import KEY_OF_SPEAKERS
from test_serve.live_pods import LiveGateway

HERE = Path(__file__).parent / "clients"
INSTALLED = Path(os.environ.get("AMS_CLIENTS", HERE.parents[2] / ".clients"))
MODULES = INSTALLED / "node_modules"
ANSWER = "Paris. Done"


@dataclass(frozen=True)
class Client:
    """A script, what has to be installed for it, the lines that it prints, and the environment that has it."""

    script: str
    needs: str
    prints: tuple[str, ...]
    environment: str = "current"

    @property
    def program(self) -> Path | str:
        return "node" if self.script.endswith(".mjs") else INSTALLED / self.environment / "bin" / "python"

    @property
    def missing(self) -> bool:
        if self.program == "node":
            return not (MODULES / self.needs).exists()
        return not list((INSTALLED / self.environment).glob(f"lib/python3*/site-packages/{self.needs}"))


CLIENTS = [
    Client("openai_python.py", "openai", (ANSWER, ANSWER, "['short', 'spaces', 'think']")),
    Client("litellm_completion.py", "litellm", (ANSWER, ANSWER, "too long")),
    Client(
        "langchain_chat.py", "langchain_openai", (ANSWER, ANSWER, "<think>", " hm STOP</think>", "", ANSWER, "too long")
    ),
    Client("llama_index_complete.py", "llama_index/llms/openai_like", (ANSWER, ANSWER), "older"),
    Client("pydantic_ai_agent.py", "pydantic_ai", (ANSWER,)),
    Client("openai_agents_runner.py", "agents", (ANSWER,)),
    Client("huggingface_inference.py", "huggingface_hub", (ANSWER, ANSWER)),
    Client("haystack_generator.py", "haystack", (ANSWER,)),
    Client("smolagents_model.py", "smolagents", (ANSWER,)),
    Client("llm_cli.py", "llm", (ANSWER, ANSWER)),
    Client("openai_js.mjs", "openai", (ANSWER, ANSWER)),
    Client("vercel_ai.mjs", "@ai-sdk/openai-compatible", (f"{ANSWER} hm STOP", ANSWER)),
    Client("langchain_js.mjs", "@langchain/openai", (ANSWER,)),
]
STRUCTURED = Client("instructor_from_openai.py", "instructor", (), "older")


def run(client: Client, gateway: LiveGateway, folder: Path, key: str = "none") -> "subprocess.CompletedProcess[str]":
    """The script with the gateway's URL, an API key and a model's name, in a folder and an environment of its own."""
    if client.missing:
        pytest.skip(f"{client.needs} is not installed there: make clients")
    source = HERE / client.script
    if client.program == "node":
        (folder / "node_modules").symlink_to(MODULES)
        source = folder / client.script
        source.write_bytes((HERE / client.script).read_bytes())
    return subprocess.run(
        [str(client.program), str(source), gateway.url, "think"],
        cwd=folder,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "LLM_USER_PATH": str(folder / "llm"),
            "OPENAI_API_KEY": key,
            "OPENAI_BASE_URL": f"{gateway.url}/v1",
            "HAYSTACK_TELEMETRY_ENABLED": "False",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        },
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.script)
def test_a_client_works_as_its_documentation_says(client: Client, speakers: LiveGateway, tmp_path: Path) -> None:
    done = run(client, speakers, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert tuple(line.rstrip("\n") for line in done.stdout.strip("\n").split("\n")) == client.prints


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.script)
def test_a_client_needs_no_more_than_the_key(client: Client, locked_speakers: LiveGateway, tmp_path: Path) -> None:
    (folder := tmp_path / "with").mkdir()
    done = run(client, locked_speakers, folder, KEY_OF_SPEAKERS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert tuple(line.rstrip("\n") for line in done.stdout.strip("\n").split("\n")) == client.prints
    (folder := tmp_path / "without").mkdir()
    assert run(client, locked_speakers, folder).returncode != 0


def test_a_client_that_needs_structured_output_is_told(speakers: LiveGateway, tmp_path: Path) -> None:
    """Until there is any: an error that says so, and no free text in its place."""
    done = run(STRUCTURED, speakers, tmp_path)
    assert done.returncode == 1
    assert "is not supported" in done.stderr or "are not supported" in done.stderr
