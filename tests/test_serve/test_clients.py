"""Other people's clients, unchanged, against a real model behind the gateway; `make clients` installs them.

Each script of clients/ is the first example of its library's documentation. A model answers whose words are known.
"""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from fakehub import scripted
from test_serve.conftest import KEY_OF_SPEAKERS
from test_serve.live_pods import LiveForkServer, LiveGateway, child_pod, gateway_process

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
STEPS, LAST = 20, "All 20 steps are done."
DONE = f"{LAST} True"
LONDON = "city='London' country='United Kingdom'"
JOKE = "setup='Why do cats sit?' punchline='They are tired.'"
AGENTS = [
    Client(
        "openai_tools.py",
        "openai",
        (
            "get_weather Paris, France",
            "14 degrees.",
            "name='Science Fair' date='Friday' participants=['Alice', 'Bob']",
            "2 ['Hello.', ' It is', ' I.']",
        ),
    ),
    Client("openai_tools.mjs", "openai", (LAST, "20")),
    Client("vercel_tools.mjs", "ai", (f"{LAST} 20", f"{LAST} {' '.join(map(str, range(1, 21)))}", "Lasagna 2")),
    Client("openai_agents_tools.py", "agents", (DONE, DONE)),
    Client("pydantic_ai_tools.py", "pydantic_ai", (LONDON, LONDON, LONDON, DONE, DONE)),
    Client("langchain_tools.py", "langchain_openai", ("{'location': 'San Francisco, CA'}", JOKE, JOKE, JOKE, "3")),
    Client("instructor_from_openai.py", "instructor", ("John 25", "John 25", "John 25"), "older"),
    Client("llama_index_tools.py", "llama_index/llms/openai_like", ("42",), "older"),
    Client("llm_schema.py", "llm", ('{"name": "Rex", "age": 4, "one_sentence_bio": "A cool dog."}',)),
]


def says(text: str) -> str:
    """The condition that a message has this text."""
    return f"{text!r} in (messages | map(attribute='content') | join(' '))"


def first_tool(name: str) -> str:
    return f"tools and tools[0].function.name == '{name}' and messages[-1].role != 'tool'"


JOKE_JSON = '{"setup": "Why do cats sit?", "punchline": "They are tired."}'
LONDON_JSON = '{"city": "London", "country": "United Kingdom"}'
JOHN_JSON = '{"name": "John", "age": 25}'
SCRIPTS = [
    *scripted.steps(STEPS, "step", LAST),
    (first_tool("get_weather"), scripted.call("get_weather", '{"location": "Paris, France"}')),
    ("tools and tools[0].function.name == 'get_weather'", ["14 degrees."]),
    (first_tool("GetWeather"), scripted.call("GetWeather", '{"location": "San Francisco, CA"}')),
    (first_tool("Joke"), scripted.call("Joke", JOKE_JSON)),
    (first_tool("User"), scripted.call("User", JOHN_JSON)),
    (first_tool("final_result"), scripted.call("final_result", LONDON_JSON)),
    (first_tool("multiply"), scripted.call("multiply", '{"a": 6, "b": 7}')),
    (says("Alice and Bob"), ['{"name":"Science Fair","date":"Friday","participants":["Alice","Bob"]}']),
    (says("joke about cats"), [JOKE_JSON]),
    (says("John is 25"), [JOHN_JSON]),
    (says("olympics"), [LONDON_JSON]),
    (says("lasagna"), ['{"name": "Lasagna", "ingredients": ["noodles", "sauce"]}']),
    (says("cool dog"), ['{"name": "Rex", "age": 4, "one_sentence_bio": "A cool dog."}']),
    ("true", ["Hello.", " It is", " I."]),
]


@pytest.fixture(scope="module")
def agent(folder: Path, forks: LiveForkServer) -> Iterator[LiveGateway]:
    """A gateway in front of a model that calls what each client's example needs."""
    logs = folder / "agents-of-clients"
    logs.mkdir()
    made = scripted.agent(logs / "agent", SCRIPTS)
    with child_pod(forks, logs, made, "think") as pod, gateway_process(logs, pod) as running:
        yield running


def run(
    client: Client, gateway: LiveGateway, folder: Path, key: str = "none", **more: str
) -> "subprocess.CompletedProcess[str]":
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
            "ANTHROPIC_API_KEY": key,
            "OPENAI_BASE_URL": f"{gateway.url}/v1",
            "HAYSTACK_TELEMETRY_ENABLED": "False",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        }
        | more,
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


@pytest.mark.parametrize("client", AGENTS, ids=lambda client: client.script)
def test_agents_and_structured_output_work_as_their_documentation_says(
    client: Client, agent: LiveGateway, tmp_path: Path
) -> None:
    """A session of 20 calls ends as its model's script says, whole and streamed."""
    done = run(client, agent, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert tuple(line.rstrip("\n") for line in done.stdout.strip("\n").split("\n")) == client.prints
