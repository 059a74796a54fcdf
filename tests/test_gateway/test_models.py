"""GET /v1/models: names, and what pods and manifests say of the models."""

from typing import Any

import pytest
from ams_common.lifecycle import Phase
from test_gateway.conftest import Running, Start
from test_gateway.gateway_fakes import Exchange, FakeRegistry

CARD = {
    "id": "m", "max_model_len": 4096, "max_completion_tokens": 1024, "modalities": ["text", "image"],
    "features": ["raw-prompts", "reasoning"],
}  # fmt: skip
FACTS = ("max_model_len", "max_completion_tokens", "modalities", "features")


async def get(running: Running, path: str) -> tuple[int, Any]:
    async with running.client.get(running.url + path) as response:
        return response.status, await response.json()


async def facts(running: Running, path: str = "/v1/models/m") -> list[Any]:
    _, card = await get(running, path)
    return [card[name] for name in FACTS]


def says(*cards: Any) -> Any:
    """A pod that says this of its model, one thing after another."""
    left = list(cards)

    async def behave(exchange: Exchange) -> None:
        await exchange.json(200, {"data": [left.pop(0) if len(left) > 1 else left[0]]})

    return behave


async def test_what_a_pod_says_is_told_and_remembered(start: Start, pod, registry: FakeRegistry, monkeypatch) -> None:
    backend = await pod(says(CARD, CARD | {"max_model_len": 2048}))
    entry = registry.add("m", backend.address)
    running = await start(registry)
    for _ in range(2):  # asked once
        assert await facts(running) == [4096, 1024, ["text", "image"], ["raw-prompts", "reasoning"]]
    assert (await get(running, "/v1/models"))[1]["data"][0]["state"] == Phase.READY
    entry.backends.clear()  # scaled to zero: the model is the same
    assert (await facts(running))[0] == 4096
    registry.add_backend("m", backend.address).id = "another"
    assert (await facts(running))[0] == 2048


async def test_without_a_pod_the_manifest_says_what_it_knows(start: Start, registry: FakeRegistry) -> None:
    registry.add("m", context_tokens=8192, max_new_tokens=512, modalities=frozenset({"text", "video"}))
    registry.add("auto", max_new_tokens=512)
    registry.add("open", context_tokens=8192)
    running = await start(registry)
    assert await facts(running) == [8192, 512, ["text", "video"], None]
    assert await facts(running, "/v1/models/auto") == [None, None, None, None]  # the context may be shorter than that
    assert await facts(running, "/v1/models/open") == [8192, 8192, None, None]


@pytest.mark.parametrize(
    "card",
    [{"max_model_len": "many"}, {}, "x", {"modalities": ["text", "<script>", "\n"], "features": ["y" * 9999]}],
)
async def test_a_pod_that_says_nonsense(start: Start, pod, registry: FakeRegistry, card: Any) -> None:
    registry.add("m", (await pod(says(card))).address, context_tokens=8192)
    running = await start(registry)
    assert (await facts(running))[2:] in ([None, None], [["text"], []])


async def test_aliases_and_names_with_slashes(start: Start, registry: FakeRegistry) -> None:
    registry.add("m", aliases=("Org/Model-7B", "taken", "gpt-4"))
    registry.add("taken")
    running = await start(registry)
    _, listed = await get(running, "/v1/models")
    assert [(card["id"], card["root"]) for card in listed["data"]] == [
        ("m", "m"), ("Org/Model-7B", "m"), ("gpt-4", "m"), ("taken", "taken"),
    ]  # fmt: skip
    for path in ("Org/Model-7B", "Org%2FModel-7B", "org/model_7b"):
        status, card = await get(running, f"/v1/models/{path}")
        assert (status, card["id"], card["root"]) == (200, "Org/Model-7B", "m")
    status, error = await get(running, "/v1/models/Org/Another")
    assert (status, error["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/chat/completions", "/v1/chat/completions"),
        ("/v1/chat/completions/", "/v1/chat/completions"),
        ("//v1/chat/completions", "/v1/chat/completions"),
        ("/v1/v1/completions", "/v1/completions"),
        ("/openai/v1/models", "/v1/models"),
        ("/models", "/v1/models"),
        ("/api/audio/transcriptions", "/v1/audio/transcriptions"),
    ],
)
async def test_a_wrong_base_url_is_told_to_openais_clients(
    start: Start, registry: FakeRegistry, path: str, meant: str
) -> None:
    registry.add("m")
    running = await start(registry)
    status, answer = await get(running, path)
    assert (status, answer["error"]["code"]) == (404, "not_found")
    assert answer["error"]["message"] == (
        f"No such route: {path}. Call {meant}: the client's base URL must end with /v1, as in http://HOST/v1."
    )


@pytest.mark.parametrize("path", ["/v1/moderations", "/moderations"])
async def test_a_route_of_openais_that_there_is_not(start: Start, registry: FakeRegistry, path: str) -> None:
    running = await start(registry)
    _, answer = await get(running, path)
    assert answer["error"]["message"].startswith(f"No such route: {path}. Routes of OpenAI's API: /v1/audio/trans")


async def test_other_wrong_paths_answer_as_ever(start: Start, registry: FakeRegistry) -> None:
    running = await start(registry)
    for path in ("/nope", "/generate", "/admin/models"):
        _, answer = await get(running, path)
        assert answer["error"] == f"No such route: {path}."


@pytest.mark.parametrize("pieces", [1, 2, 9])
async def test_the_usage_comment_stays_here(start: Start, pod, registry: FakeRegistry, pieces: int) -> None:
    """However the bytes come; the metrics have it. Another comment passes, and so does a text that looks like it."""
    data = (
        b': preparing\n\ndata: {"response":"\\n: usage prompt=1 completion=1\\n\\n"}\n\n'
        b": usage prompt=7 completion=9\n\ndata: [DONE]\n\n"
    )
    size = -(-len(data) // pieces)

    async def stream(exchange: Exchange) -> None:
        await exchange.start_stream()
        for at in range(0, len(data), size):
            await exchange.chunk(data[at : at + size])
        await exchange.end_stream()

    registry.add("m", (await pod(stream)).address)
    running = await start(registry)
    async with running.client.post(running.url + "/generate/m", json={"stream": True}) as response:
        assert await response.read() == data.replace(b": usage prompt=7 completion=9\n\n", b"")
    assert 'ams_gateway_tokens_total{model="m",token_type="output"} 9.0' in await running.metrics()
