"""Clients of OpenAI's Responses and Anthropic's Messages, unchanged, as in test_clients.py; and sessions of tools."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fakehub import scripted
from test_serve.conftest import KEY_OF_SPEAKERS
from test_serve.live_pods import LiveForkServer, LiveGateway, child_pod, gateway_process
from test_serve.test_clients import ANSWER, Client, run

CLIENTS = [
    Client("openai_responses.py", "openai", (ANSWER,) * 4),
    Client("openai_agents_responses.py", "agents", (ANSWER, ANSWER)),
    Client("anthropic_python.py", "anthropic", (ANSWER, ANSWER, "['thinking', 'text'] hm STOP", "True")),
    Client("litellm_other_apis.py", "litellm", (ANSWER,) * 4),
    Client("vercel_other_apis.mjs", "@ai-sdk/anthropic", (f"{ANSWER} 0",) * 4),
]
STEPS, LAST = 20, "All 20 steps are done."
WITH_TOOLS = [
    Client("openai_agents_responses_tools.py", "agents", (f"{LAST} True",) * 2),
    Client("anthropic_tools.py", "anthropic", (f"{LAST} True",) * 2),
    Client("vercel_other_apis.mjs", "@ai-sdk/anthropic", (f"{LAST} 20",) * 4),
]


@pytest.fixture(scope="module")
def walker(folder: Path, forks: LiveForkServer) -> Iterator[LiveGateway]:
    """A gateway in front of a model that calls `step` twenty times."""
    logs = folder / "walker-gateway"
    logs.mkdir()
    weights = scripted.agent(folder / "walker", scripted.steps(STEPS, "step", LAST))
    with child_pod(forks, folder, weights, "think") as pod, gateway_process(logs, pod) as running:
        yield running


def lines(text: str) -> tuple[str, ...]:
    return tuple(line.rstrip("\n") for line in text.strip("\n").split("\n"))


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.script)
def test_a_client_works_as_its_documentation_says(client: Client, speakers: LiveGateway, tmp_path: Path) -> None:
    done = run(client, speakers, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert lines(done.stdout) == client.prints


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.script)
def test_a_client_needs_no_more_than_the_key(client: Client, locked_speakers: LiveGateway, tmp_path: Path) -> None:
    (folder := tmp_path / "with").mkdir()
    done = run(client, locked_speakers, folder, KEY_OF_SPEAKERS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert lines(done.stdout) == client.prints
    (folder := tmp_path / "without").mkdir()
    assert run(client, locked_speakers, folder).returncode != 0


@pytest.mark.parametrize("client", WITH_TOOLS, ids=lambda client: client.script)
def test_a_session_of_twenty_calls(client: Client, walker: LiveGateway, tmp_path: Path) -> None:
    done = run(client, walker, tmp_path, WITH_TOOLS="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert lines(done.stdout) == client.prints
