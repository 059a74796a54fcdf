"""LoRA adapters: requests for MODEL:ADAPTER go to the model's pods, which are told of the adapter."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import ams_gateway.page
import msgspec
import pytest
from ams_common.errors import ApiError
from ams_common.keys import OPEN, KeyFile
from ams_common.lifecycle import Phase
from ams_gateway.registry.cluster.reading import read_resource
from ams_gateway.registry.port import KeepAnswers
from ams_gateway.routes.serving import allowed_model
from ams_kube.views import ResourceView
from test_gateway.conftest import Running, Start
from test_gateway.gateway_fakes import Exchange, FakePod, FakeRegistry
from test_gateway.test_keys import TEAM, bearer, door_of, stored

MESSAGES = {"messages": [{"role": "user", "content": "hi"}]}
ROUTES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", MESSAGES),
    ("/v1/completions", {"prompt": "hi"}),
    ("/v1/responses", {"input": "hi"}),
    ("/v1/messages", {**MESSAGES, "max_tokens": 5}),
    ("/tokenize", {"prompt": "hi"}),
]


async def tells(exchange: Exchange) -> None:
    """Answers with the adapter that it was told of."""
    await exchange.json(200, {"response": exchange.request.headers.get("x-ams-adapter", "not told")})


async def started(start: Start, pod: Any, registry: FakeRegistry, **more: Any) -> tuple[Running, FakePod]:
    backend = await pod(tells)
    registry.add("smol", backend.address, adapters=("french", "sql-2"), aliases=("gpt-4",), **more)
    return await start(registry), backend


@pytest.mark.parametrize(("path", "body"), ROUTES)
async def test_an_adapter_is_told_to_the_models_pods(
    start: Start, pod: Any, registry: FakeRegistry, path: str, body: dict[str, Any]
) -> None:
    running, backend = await started(start, pod, registry)
    for name, adapter in (("smol:french", "french"), ("gpt-4:SQL_2", "sql-2"), ("smol", ""), ("gpt-4", "")):
        status, answer, _ = await running.post(path, {"model": name, **body})
        assert (status, answer["response"]) == (200, adapter), name
    assert len(backend.received) == 4
    told = await running.metrics()
    assert 'model="smol"' in told
    assert "french" not in told.lower()  # what is counted is the model's


async def test_the_older_servers_route_names_it_in_its_path(start: Start, pod: Any, registry: FakeRegistry) -> None:
    running, _ = await started(start, pod, registry)
    for name, adapter in (("smol:french", "french"), ("smol%3Afrench", "french"), ("smol", "")):
        status, answer, _ = await running.post(f"/generate/{name}", {"prompt": "hi"})
        assert (status, answer["response"]) == (200, adapter)


async def test_a_client_cant_name_it_by_the_gateways_header(start: Start, pod: Any, registry: FakeRegistry) -> None:
    running, _ = await started(start, pod, registry)
    registry.add("plain", (await pod(tells)).address)
    headers = {"X-AMS-Adapter": "french"}
    for name, told in (("smol", ""), ("plain", "not told")):
        async with running.client.post(
            f"{running.url}/generate/{name}", json={"prompt": "hi"}, headers=headers
        ) as found:
            assert (await found.json())["response"] == told


@pytest.mark.parametrize("name", ["smol:german", "gpt-4:german", "smol:", "smol:french:", "nobody:french", ":french"])
async def test_an_unknown_adapter_is_not_found_and_those_that_exist_are_named(
    start: Start, pod: Any, registry: FakeRegistry, name: str
) -> None:
    running, backend = await started(start, pod, registry)
    status, answer, _ = await running.post("/v1/chat/completions", {"model": name, **MESSAGES})
    assert (status, answer["error"]["code"]) == (404, "model_not_found")
    if name.endswith("german"):
        assert answer["error"]["message"] == "smol has no adapter german. Adapters: smol:french, smol:sql-2."
    assert not backend.received


async def test_a_models_own_adapters_go_before_the_aliases_of_others(registry: FakeRegistry) -> None:
    registry.add("smol", adapters=("french",))
    registry.add("other", aliases=("smol:french", "smol:8b"))
    policy = OPEN.policy
    assert (found := allowed_model(registry, policy, "smol:french"))[0].name == "smol"
    assert found[1] == "french"
    assert allowed_model(registry, policy, "smol:8b")[0].name == "other"


async def test_both_are_listed(start: Start, pod: Any, registry: FakeRegistry) -> None:
    running, _ = await started(start, pod, registry)
    async with running.client.get(f"{running.url}/v1/models") as response:
        cards = {card["id"]: card for card in (await response.json())["data"]}
    assert list(cards) == ["smol", "gpt-4", "smol:french", "smol:sql-2"]
    assert (cards["smol"]["parent"], cards["gpt-4"]["root"]) == (None, "smol")
    assert (cards["smol:french"]["parent"], cards["smol:french"]["root"]) == ("smol", "smol:french")
    async with running.client.get(f"{running.url}/v1/models/smol:french") as response:
        assert await response.json() == cards["smol:french"]


async def test_whoever_may_use_a_model_may_use_its_adapters(
    start: Start, pod: Any, registry: FakeRegistry, tmp_path: Any
) -> None:
    keys = KeyFile(keys=(stored("team", TEAM, models=("smol",)),))
    registry.add("secret", adapters=("french",))
    backend = await pod(tells)
    registry.add("smol", backend.address, adapters=("french",))
    running = await start(registry, door=door_of(tmp_path, keys))
    for name, status, code in (
        ("smol:french", 200, None), ("smol:german", 404, "model_not_found"),
        ("secret:french", 403, "model_not_allowed"), ("secret:german", 403, "model_not_allowed"),
    ):  # fmt: skip
        found, answer, _ = await running.post("/v1/chat/completions", {"model": name, **MESSAGES}, headers=bearer(TEAM))
        assert (found, answer.get("error", {}).get("code")) == (status, code), name
        assert "french" not in str(answer.get("error")) or name.startswith("smol"), "it tells of what is another's"


async def test_answers_of_one_adapter_are_not_given_for_another(start: Start, pod: Any, registry: FakeRegistry) -> None:
    async def behave(exchange: Exchange) -> None:
        told = exchange.request.headers.get("x-ams-adapter")
        await exchange.json(200, {"response": told}, X_AMS_Usage="prompt=1 completion=1", X_AMS_Answer_Version="v1")

    backend = await pod(behave)
    registry.add("smol", backend.address, adapters=("french", "sql"), answers=KeepAnswers(3600.0, 1 << 20))
    running = await start(registry)
    told = []
    for name in ("smol", "smol:french", "smol:sql", "smol:french", "smol"):
        _, answer, headers = await running.post(f"/generate/{name}", {"prompt": "hi", "temperature": 0})
        told.append((answer["response"], headers["X-AMS-Cache"]))
    assert told == [("", "miss"), ("french", "miss"), ("sql", "miss"), ("french", "hit"), ("", "hit")]


def test_a_cluster_tells_the_gateway_of_adapters() -> None:
    document = {
        "metadata": {"name": "smol", "namespace": "models"},
        "spec": {"adapters": [{"name": "french", "source": "hf://a/b", "newer": 1}, {"source": "hf://a/c"}]},
    }
    assert read_resource(msgspec.convert(document, ResourceView)).model.adapters == ("french",)


async def test_why_of_an_adapter_is_why_of_its_model(start: Start, pod: Any, registry: FakeRegistry) -> None:
    registry.add("smol", adapters=("french",))
    running = await start(registry)
    for name, status in (("smol:french", 200), ("nobody:french", 404)):
        async with running.client.get(f"{running.url}/admin/why?model={name}") as response:
            assert response.status == status, await response.text()


async def test_the_page_offers_a_models_adapters(start: Start, pod: Any, registry: FakeRegistry, tmp_path: Any) -> None:
    running, _ = await started(start, pod, registry)
    async with running.client.get(f"{running.url}/overview") as response:
        models = (await response.json())["models"]
    assert models[0]["adapters"] == ["french", "sql-2"]
    if (node := shutil.which("node")) is None:
        pytest.skip("Node isn't installed: what the page makes of them isn't looked at")
    script = tmp_path / "script.mjs"
    static = Path(ams_gateway.page.__file__).parent / "static"
    asks = [
        "namesOf(given)",
        "modelNamed(given, 'smol:sql-2')",
        "modelNamed(given, 'smol:x')",
        "namesOf([{name: 'old'}])",
    ]
    lines = ["const given = JSON.parse(process.argv[2]);", f"console.log(JSON.stringify([{', '.join(asks)}]));"]
    script.write_text("\n".join([(static / "adapters.js").read_text(), *lines]))
    process = await asyncio.create_subprocess_exec(node, script, json.dumps(models), stdout=asyncio.subprocess.PIPE)
    told, _ = await asyncio.wait_for(process.communicate(), 30)
    names, model, nothing, older = json.loads(told)
    assert names == ["smol", "smol:french", "smol:sql-2"]
    assert (model["name"], model["state"], nothing, older) == ("smol:sql-2", models[0]["state"], None, ["old"])


async def test_while_pods_are_replaced_an_adapter_is_asked_of_those_that_have_it(
    start: Start, pod: Any, registry: FakeRegistry
) -> None:
    missing = ApiError("model_loading", "The adapter isn't in this pod.", retry_after=2)

    async def lacks(exchange: Exchange) -> None:
        if exchange.request.headers.get("x-ams-adapter"):
            body = json.loads(missing.body("/generate", "id"))
            await exchange.json(503, body, Retry_After="2")
        else:
            await tells(exchange)

    old, older, new = await pod(lacks), await pod(lacks), await pod(tells)
    registry.add("smol", old.address, older.address, adapters=("french",))
    running = await start(registry)
    status, answer, headers = await running.post("/generate/smol:french", {"prompt": "hi"})
    assert (status, answer["details"]["code"], headers["Retry-After"]) == (503, "model_loading", "2")
    registry.add_backend("smol", new.address)
    for _ in range(8):
        assert (await running.post("/generate/smol:french", {"prompt": "hi"}))[0] == 200
        assert (await running.post("/generate/smol", {"prompt": "hi"}))[0] == 200
    assert len(new.received) >= 8
    assert old.received
    assert older.received  # none of them is left out
    told = await running.metrics()
    assert 'ams_gateway_retries_total{model="smol",reason="not_loaded"}' in told
    assert 'ams_gateway_ejections_total{model="smol"} 0.0' in told


async def test_of_many_pods_the_one_that_has_an_adapter_is_found_and_kept_to(
    start: Start, pod: Any, registry: FakeRegistry
) -> None:
    """Each request asks at most five pods: the next one goes on with others, and not from the beginning."""
    missing = ApiError("model_loading", "The adapter isn't loaded yet in this pod.", retry_after=2)

    async def lacks(exchange: Exchange) -> None:
        if exchange.request.headers.get("x-ams-adapter") == "french":
            await exchange.json(503, json.loads(missing.body("/generate", "id")), Retry_After="2")
        else:
            await tells(exchange)

    without = [await pod(lacks) for _ in range(9)]
    has = await pod(tells)
    registry.add("smol", *(each.address for each in without), has.address, adapters=("french", "sql"))
    running = await start(registry)
    statuses = [(await running.post("/generate/smol:french", {"prompt": "hi"}))[0] for _ in range(3)]
    assert statuses[-1] == 200
    for _ in range(10):
        assert (await running.post("/generate/smol:french", {"prompt": "hi"}))[0] == 200
    asked = sum(len(each.received) for each in without)
    assert asked <= 9  # each of them once
    for _ in range(60):  # for all else nobody is left out
        assert (await running.post("/generate/smol:sql", {"prompt": "hi"}))[0] == 200
    assert sum(len(each.received) for each in without) > asked


async def test_the_list_of_models_says_which_adapters_are_not_served(
    start: Start, pod: Any, registry: FakeRegistry
) -> None:
    phases = {"sql": Phase.FAILED, "new": Phase.LOADING}
    registry.add("smol", (await pod(tells)).address, adapters=("french", "sql", "new"), adapter_phases=phases)
    registry.add("cold", adapters=("sql",), adapter_phases={"sql": Phase.FAILED})
    running = await start(registry)
    async with running.client.get(f"{running.url}/v1/models") as response:
        told = {card["id"]: card["state"] for card in (await response.json())["data"]}
    assert told["smol:french"] == told["smol"] == "ready"
    assert (told["smol:sql"], told["smol:new"]) == ("failed", "loading")
    assert told["cold:sql"] == told["cold"] != "failed"


def test_a_cluster_tells_the_gateway_what_became_of_adapters() -> None:
    states = [{"name": "a", "state": "Ready"}, {"name": "b", "state": "Failed"}, {"name": "c", "state": "OfTomorrow"}]
    document = {"metadata": {"name": "smol", "namespace": "models"}, "status": {"adapters": states}}
    assert read_resource(msgspec.convert(document, ResourceView)).model.adapter_phases == {"b": Phase.FAILED}
