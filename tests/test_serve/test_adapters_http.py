"""LoRA adapters on a pod's routes: which one reaches the engine, what the answer is called, and which there are."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from ams_common.adapters import AdapterSettings, adapters_text
from ams_common.pod_settings import ServeSettings
from ams_pod.engines.port import AdapterView
from ams_pod.serve.answer_version import answer_version, with_adapters
from ams_pod.serve.server import unsupported
from test_serve.test_engine_port import Client, ShoutingEngine, serving

ADAPTERS = adapters_text([AdapterSettings("french", "hf://acme/french"), AdapterSettings("sql-2", "hf://acme/sql")])
MESSAGES = [{"role": "user", "content": "say hi"}]
ROUTES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": MESSAGES}),
    ("/v1/completions", {"prompt": "say hi"}),
    ("/v1/responses", {"input": "say hi"}),
    ("/v1/messages", {"messages": MESSAGES, "max_tokens": 20}),
]


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    async with serving(tmp_path, ShoutingEngine, adapters=ADAPTERS, aliases="loud,shout:8b") as client:
        yield client


async def asked(client: Client, path: str, body: dict[str, Any], adapter: str | None = None) -> tuple[int, Any]:
    headers = {} if adapter is None else {"X-AMS-Adapter": adapter}
    async with client._session.post(client._url + path, json=body, headers=headers) as response:
        client.headers = response.headers
        return response.status, await response.json()


@pytest.mark.parametrize(("path", "body"), ROUTES)
@pytest.mark.parametrize(
    ("name", "told", "adapter"),
    [
        ("shout:french", None, "french"),
        ("loud:SQL_2", None, "sql-2"),
        ("shout", None, ""),
        ("shout:8b", None, ""),
        ("shout:french", "french", "french"),
        ("another-name:french", "french", "french"),
        ("shout", "", ""),
    ],
)
async def test_an_adapter_reaches_the_engine(
    client: Client, path: str, body: dict[str, Any], name: str, told: str | None, adapter: str
) -> None:
    status, answer = await asked(client, path, {"model": name, **body}, told)
    assert status == 200, answer
    assert client.engine.last_sampling.adapter == adapter
    assert answer["model"] == name
    assert client.headers["X-AMS-Model"] == "shout"


async def test_the_older_servers_route_gets_it_from_the_gateway(client: Client) -> None:
    status, answer = await asked(client, "/generate", {"prompt": "say hi"}, "french")
    assert (status, answer["model"], client.engine.last_sampling.adapter) == (200, "shout:french", "french")
    status, answer = await asked(client, "/generate", {"prompt": "say hi"})
    assert (status, answer["model"], client.engine.last_sampling.adapter) == (200, "shout", "")


async def test_an_adapter_that_is_not_there_is_not_found(client: Client) -> None:
    status, answer = await asked(client, "/v1/chat/completions", {"model": "shout:german", "messages": MESSAGES})
    assert (status, answer["error"]["code"]) == (404, "model_not_found")
    assert answer["error"]["message"] == "shout has no adapter 'german'; there are: french, sql-2."
    status, answer = await asked(client, "/v1/chat/completions", {"model": "other:french", "messages": MESSAGES})
    assert (status, answer["error"]["code"]) == (404, "model_not_found")


async def test_an_adapter_that_only_newer_pods_have_may_be_asked_for_again(client: Client) -> None:
    status, answer = await asked(client, "/generate", {"prompt": "say hi"}, "german")
    assert (status, answer["details"]["code"]) == (503, "model_loading")
    assert client.headers["Retry-After"] == "2"


async def test_tokens_are_those_of_the_model(client: Client) -> None:
    status, answer = await asked(client, "/tokenize", {"model": "shout:french", "prompt": "abc"})
    assert (status, answer["count"]) == (200, 3)
    assert (await asked(client, "/tokenize", {"model": "shout:german", "prompt": "abc"}))[0] == 404


async def test_adapters_are_listed_behind_the_model(client: Client) -> None:
    cards = json.loads(await client.get("/v1/models"))["data"]
    told = [(card["id"], card["root"], card["parent"]) for card in cards]
    assert told == [
        ("shout", "shout", None), ("loud", "shout", None), ("shout:8b", "shout", None),
        ("shout:french", "shout:french", "shout"), ("shout:sql-2", "shout:sql-2", "shout"),
    ]  # fmt: skip
    assert json.loads(await client.get("/v1/models/shout:french"))["parent"] == "shout"


async def test_behind_a_gateway_that_says_nothing_a_name_that_ends_with_an_adapter_is_one(tmp_path: Path) -> None:
    async with serving(tmp_path, ShoutingEngine, adapters=ADAPTERS, any_name=True) as client:
        for name, adapter in (("whatever:french", "french"), ("whatever:8b", ""), ("whatever", "")):
            assert (await asked(client, "/v1/completions", {"model": name, "prompt": "a"}))[0] == 200
            assert client.engine.last_sampling.adapter == adapter
        assert (await asked(client, "/v1/completions", {"model": "shout:german", "prompt": "a"}))[0] == 404


@pytest.mark.parametrize(
    ("engine", "adapters", "words"),
    [
        ("builtin", ADAPTERS, "--adapters: the engine builtin applies none"),
        ("custom", ADAPTERS, "--adapters: the engine custom applies none"),
        ("vllm", "[{]", "--adapters: is not valid JSON"),
        ("vllm", '[{"name":"a","source":"here"}]', "--adapters: 'here' is not a model source"),
    ],
)
def test_settings_that_cant_be_honoured_end_the_start(engine: Any, adapters: str, words: str) -> None:
    settings = ServeSettings(name="m", source="hf://a/b", engine=engine, adapters=adapters)
    assert (unsupported(settings) or "").startswith(words)


@pytest.mark.parametrize(
    ("engine", "adapters", "words"),
    [
        ("vllm", "", ""),
        ("sglang", "", ""),
        ("builtin", "", "--adapters-state: the engine builtin loads none while it runs"),
        ("llamacpp", "", "--adapters-state: the engine llamacpp loads none while it runs"),
        ("vllm", ADAPTERS, "--adapters and --adapters-state: adapters are those of the one or of the other."),
    ],
)
def test_adapters_that_come_and_go_are_for_engines_that_can(engine: Any, adapters: str, words: str) -> None:
    settings = ServeSettings(name="m", source="hf://a/b", engine=engine, adapters=adapters, adapters_state="/state")
    assert (unsupported(settings) or "").startswith(words)
    assert (unsupported(settings) is None) == (words == "")


def test_other_bytes_of_an_adapter_are_another_version_of_answers(tmp_path: Path) -> None:
    adapter = tmp_path / "french.gguf"
    adapter.write_bytes(b"one")
    adapters = adapters_text([AdapterSettings("french", f"file://{adapter}")])
    settings = ServeSettings(name="m", source="hf://a/b", engine="llamacpp", adapters=adapters)
    before = answer_version(tmp_path / "model", settings, ShoutingEngine.info)
    assert answer_version(tmp_path / "model", settings, ShoutingEngine.info) == before
    adapter.write_bytes(b"other")
    assert answer_version(tmp_path / "model", settings, ShoutingEngine.info) != before


class Following(ShoutingEngine):  # type: ignore[misc]
    """Whose adapters come and go."""

    adapters = (
        AdapterView("french", "a1", "ready", "1" * 16, files=2, sha256="ab"),
        AdapterView("sql", "a2", "failed", "", "LockMismatch", "Its lock differs."),
        AdapterView("new", "a3", "loading"),
    )


@pytest.fixture
async def following(tmp_path: Path) -> AsyncIterator[Client]:
    async with serving(tmp_path, Following, adapters_state=str(tmp_path / "state.json")) as client:
        yield client


@pytest.mark.parametrize(
    ("adapter", "status", "code", "words"),
    [
        ("french", 200, None, ""),
        ("new", 503, "model_loading", "The adapter 'new' isn't loaded yet in this pod."),
        ("sql", 503, "model_loading", "The adapter 'sql' isn't served: Its lock differs."),
        ("unheard-of", 503, "model_loading", "The adapter 'unheard-of' isn't loaded yet in this pod."),
    ],
)
async def test_an_adapter_that_comes_and_goes_is_asked_for(
    following: Client, adapter: str, status: int, code: str | None, words: str
) -> None:
    found, answer = await asked(following, "/generate", {"prompt": "say hi"}, adapter)
    assert (found, answer.get("details", {}).get("code")) == (status, code)
    assert answer.get("error", "") == words
    if code is not None:
        assert following.headers["Retry-After"] == "2"


async def test_without_a_gateway_one_that_is_on_its_way_is_no_other_than_one_that_isnt_there(following: Client) -> None:
    for name, status in (("shout:french", 200), ("shout:new", 503), ("shout:sql", 503), ("shout:german", 404)):
        found, _ = await asked(following, "/v1/completions", {"model": name, "prompt": "a"})
        assert found == status, name


async def test_those_that_are_served_are_listed_and_all_are_told(following: Client) -> None:
    cards = json.loads(await following.get("/v1/models"))["data"]
    assert [card["id"] for card in cards] == ["shout", "shout:french"]
    told = json.loads(await following.get("/admin/model_status"))["adapters"]
    assert told == [
        {"name": "french", "state": "ready", "served": True, "asked": "a1", "files": 2, "sha256": "ab"},
        {
            "name": "sql", "state": "failed", "reason": "LockMismatch", "message": "Its lock differs.", "asked": "a2",
        },
        {"name": "new", "state": "loading", "asked": "a3"},
    ]  # fmt: skip


async def test_a_pod_whose_adapters_dont_change_tells_none(client: Client) -> None:
    assert json.loads(await client.get("/admin/model_status"))["adapters"] is None


async def test_answers_are_of_another_version_when_another_adapter_is_served(following: Client) -> None:
    async def version() -> str:
        assert (await asked(following, "/generate", {"prompt": "say hi"}, ""))[0] == 200
        return str(following.headers["X-AMS-Answer-Version"])

    before = await version()
    engine: Any = following.engine
    engine.adapters = (*Following.adapters[:2], AdapterView("new", "a3", "loading"))
    assert await version() == before
    engine.adapters = (*Following.adapters[:2], AdapterView("new", "a3", "ready", "2" * 16))
    after = await version()
    engine.adapters = (AdapterView("french", "a1", "ready", "3" * 16),)
    assert len({before, after, await version()}) == 3
    engine.adapters = Following.adapters
    assert await version() == before


def test_what_is_served_is_part_of_an_answers_version() -> None:
    assert with_adapters("v", {}) == "v"
    assert with_adapters("v", {"a": "1", "b": "2"}) == with_adapters("v", {"b": "2", "a": "1"}) != "v"
