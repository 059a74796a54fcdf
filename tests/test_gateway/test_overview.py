"""What the page and `ams top` see: models, rates, errors, and only what a user may see."""

import asyncio
import json
from typing import Any

import msgspec
import pytest
from ams_common.errors import ApiError
from ams_common.keys import KeyFile, Scope, StoredKey, hash_of
from ams_common.keys import Secret as KeySecret
from ams_common.lifecycle import Phase
from ams_common.progress import Download, Failure, Progress
from ams_common.wire import Overview
from ams_gateway.auth.door import Door
from ams_gateway.auth.keyring import Keyring
from ams_gateway.auth.keys import Keys
from ams_gateway.overview import snapshot
from ams_gateway.overview.errors import RecentErrors
from ams_gateway.overview.rates import Rates, Sample, add_sample, rates
from ams_gateway.registry.port import ModelFacts
from ams_gateway.routes import overview as route
from test_gateway.conftest import Running, Start
from test_gateway.gateway_fakes import Exchange, FakeRegistry, raw_connection

LOAD = {
    "in_flight": 2, "queued": 3, "concurrent_requests": 8, "queued_requests": 64, "cache_tokens": 10,
    "cache_capacity_tokens": 100, "draining": False, "prompt_tokens": 100, "generated_tokens": 50,
    "resident_bytes": 1 << 30,
}  # fmt: skip
CARD = {"object": "list", "data": [{"id": "m", "max_model_len": 4096, "modalities": ["text", "image"], "features": []}]}


class Pod:
    """Answers /load with counters that grow at each look."""

    def __init__(self) -> None:
        self.looks = 0

    async def __call__(self, exchange: Exchange) -> None:
        target = exchange.request.target
        if target == "/load":
            self.looks += 1
            await exchange.json(200, LOAD | {"generated_tokens": 50 * self.looks, "prompt_tokens": 10 * self.looks})
        elif target == "/v1/models":
            await exchange.json(200, CARD)
        elif "x-refuse" in exchange.request.headers:
            await exchange.json(400, {"error": "no text in 'private words'", "details": {"code": "missing_prompt"}})
        else:
            body = {"error": "the model failed on 'my secret'", "details": {"code": "generation_failed"}}
            await exchange.json(500, body)


async def overview(running: Running, **headers: str) -> Overview:
    async with running.client.get(running.url + "/overview", headers=headers) as response:
        assert response.status == 200, await response.text()
        return msgspec.json.decode(await response.read(), type=Overview)


class Events:
    """A stream of overviews, as a client reads it."""

    def __init__(self, response: Any) -> None:
        self._response = response

    async def next(self) -> tuple[str, Any]:
        """(event, data) of the next event; a comment is ("", its text)."""
        event, data = "", None
        async with asyncio.timeout(10):
            while line := (await self._response.content.readline()).decode():
                if line.startswith(":"):
                    return "", line[1:].strip()
                if line.startswith("event: "):
                    event = line[7:].strip()
                elif line.startswith("data: "):
                    data = json.loads(line[6:])
                elif data is not None:
                    return event, data
        raise EOFError


def watch(running: Running, **headers: str) -> Any:
    return running.client.get(running.url + "/overview", headers={"Accept": "text/event-stream"} | headers)


def locked(*keys: tuple[str, StoredKey]) -> tuple[Door, Keys]:
    known = Keys(configured=True)
    known.ring = Keyring(KeyFile(keys=tuple(key for _, key in keys)))
    known.loaded = True
    return Door(known), known


def key(text: str, name: str, *scopes: Scope, models: tuple[str, ...] = ("*",)) -> tuple[str, StoredKey]:
    secrets = (KeySecret(sha256=hash_of(text)),)
    return text, StoredKey(id=name, name=name, scopes=scopes, models=models, secrets=secrets)


async def test_a_ready_model_with_what_its_pod_tells(start: Start, pod, registry: FakeRegistry) -> None:
    behaviour = Pod()
    registry.add("m", (await pod(behaviour)).address, aliases=("other",), facts=ModelFacts(replicas=2))
    running = await start(registry)
    found = await overview(running)
    assert (found.where, found.user.name, set(found.user.scopes)) == ("static", "", {"generate", "admin", "metrics"})
    (model,) = found.models
    assert (model.name, model.aliases, model.state) == ("m", ["other"], Phase.READY)
    assert (model.replicas, model.ready_replicas, model.queued, model.memory_bytes) == (2, 1, 3, 1 << 30)
    assert (model.modalities, model.features, model.max_model_len) == (["text", "image"], [], 4096)
    assert not model.controllable
    (seen,) = model.pods
    assert (seen.id, seen.running, seen.queued, seen.cache_capacity_tokens) == ("m-0", 2, 3, 100)
    assert seen.tokens_per_second is None  # of one look
    async with asyncio.timeout(20):  # a rate needs two looks
        while not (model := (await overview(running)).models[0]).tokens_per_second:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert model.tokens_per_second > 20
    assert model.pods[0].prompt_tokens_per_second == pytest.approx(model.tokens_per_second / 5, rel=0.05)


async def test_pods_are_asked_only_while_somebody_looks(
    start: Start, pod, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ams_gateway.overview.loads._POLL_SECONDS", 0.05)
    monkeypatch.setattr("ams_gateway.overview.loads._WATCHED_SECONDS", 0.2)
    behaviour = Pod()
    registry.add("m", (await pod(behaviour)).address)
    running = await start(registry)
    await asyncio.sleep(0.2)
    assert behaviour.looks == 0
    await asyncio.gather(*(overview(running) for _ in range(5)))
    assert behaviour.looks <= 2  # one poller for all
    await asyncio.sleep(0.5)
    looks = behaviour.looks
    assert looks > 2
    await asyncio.sleep(0.3)
    assert behaviour.looks == looks


async def test_a_pod_that_is_silent_or_lies_costs_nobody_the_overview(
    start: Start, pod, registry: FakeRegistry
) -> None:
    async def silent(exchange: Exchange) -> None:
        await exchange.until_client_is_gone()

    registry.add("a", (await pod(silent)).address)
    registry.add("b", (await pod(lambda exchange: exchange.json(200, {"in_flight": "many"}))).address)
    registry.add("c")
    strange = Progress(phase=Phase.READING, percent=float("nan"), eta_seconds=float("inf"))
    registry.set_progress("c", strange)
    running = await start(registry)
    async with asyncio.timeout(2):
        found = await overview(running)
    assert [(model.name, model.ready_replicas) for model in found.models] == [("a", 1), ("b", 1), ("c", 0)]
    assert found.models[0].pods[0].running is None
    assert (found.models[2].percent, found.models[2].eta_seconds) == (None, 1e6)


async def test_a_cold_start_as_a_stream_of_events(start: Start, registry: FakeRegistry) -> None:
    registry.add("m")
    running = await start(registry)
    async with watch(running) as response:
        assert response.headers["Content-Type"].startswith("text/event-stream")
        events = Events(response)
        event, found = await events.next()
        assert (event, found["models"][0]["state"]) == ("overview", "pending")
        download = Download(bytesDone=43, bytesTotal=100, file="/models/x/model.safetensors")
        registry.set_progress("m", Progress(Phase.DOWNLOADING, 43.21, 190.4, download=download))
        _, found = await events.next()
        assert (found["models"][0]["percent"], found["models"][0]["eta_seconds"]) == (43.2, 190.0)
        assert found["models"][0]["download"]["bytesDone"] == 43
        failure = Failure("GatedModel", "ask for access")
        registry.set_progress("m", Progress(Phase.FAILED, message="GatedModel: ask", failure=failure))
        _, found = await events.next()
        model = found["models"][0]
        assert (model["state"], model["reason"], model["message"]) == ("failed", "GatedModel", "ask for access")
        assert "token" in model["help"]


async def test_nothing_is_sent_while_nothing_changes_but_a_heartbeat(
    start: Start, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(route, "_STEP_SECONDS", 0.02)
    monkeypatch.setattr(route, "_HEARTBEAT_SECONDS", 0.3)
    registry.add("m")
    running = await start(registry)
    async with watch(running) as response:
        events = Events(response)
        assert (await events.next())[0] == "overview"
        assert await events.next() == ("", "alive")


async def test_watchers_are_bounded_and_end_when_the_gateway_stops(
    start: Start, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "_MOST_WATCHERS", 1)
    monkeypatch.setattr(route, "_STEP_SECONDS", 0.05)
    running = await start(registry)
    async with watch(running) as response:
        events = Events(response)
        await events.next()
        async with watch(running) as refused:
            assert (refused.status, (await refused.json())["details"]["code"]) == (429, "queue_full")
        running.gateway.drain()
        with pytest.raises(EOFError):
            await events.next()
        async with watch(running) as after:  # the place is free again
            assert after.status == 200


async def test_users_see_their_models_and_no_more_than_they_may(start: Start, pod, registry: FakeRegistry) -> None:
    registry.add("a", (await pod(Pod())).address)
    registry.add("b", aliases=("team-model",))
    download = Download(bytesDone=1, file="secret-name.safetensors")
    registry.set_progress("b", Progress(Phase.DOWNLOADING, download=download))
    chief = key("ams-key-chief", "chief", Scope.GENERATE, Scope.ADMIN)
    all_ = key("ams-key-all", "all", Scope.GENERATE)
    team = key("ams-key-team", "team", Scope.GENERATE, models=("team-*",))
    scraper = key("ams-key-scraper", "scraper", Scope.METRICS)
    door, _ = locked(chief, all_, team, scraper)
    running = await start(registry, door=door)
    seen = await overview(running, Authorization="Bearer ams-key-chief")
    assert (seen.user.name, [model.name for model in seen.models]) == ("chief", ["a", "b"])
    assert (len(seen.models[0].pods), seen.models[0].memory_bytes) == (1, 1 << 30)
    assert seen.models[1].download is not None
    assert seen.models[1].download.file == "secret-name.safetensors"
    seen = await overview(running, Authorization="Bearer ams-key-all")
    assert (seen.models[0].pods, seen.models[0].memory_bytes, seen.models[0].ready_replicas) == ([], None, 1)
    seen = await overview(running, Authorization="Bearer ams-key-team")
    assert ([model.name for model in seen.models], seen.user.scopes) == (["b"], ["generate"])
    assert seen.models[0].download == Download(bytesDone=1)
    for headers, status in (({}, 401), ({"Authorization": "Bearer x"}, 401), ({"X-API-Key": "ams-key-scraper"}, 403)):
        async with running.client.get(running.url + "/overview", headers=headers) as response:
            assert response.status == status


async def test_a_stream_ends_when_its_key_is_revoked(
    start: Start, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(route, "_STEP_SECONDS", 0.05)
    door, known = locked(key("ams-key-a", "a", Scope.GENERATE))
    running = await start(registry, door=door)
    async with watch(running, Authorization="Bearer ams-key-a") as response:
        events = Events(response)
        assert (await events.next())[0] == "overview"
        known.ring = Keyring(KeyFile())
        event, error = await events.next()
        assert (event, error["details"]["code"]) == ("error", "invalid_key")
        with pytest.raises(EOFError):
            await events.next()


async def test_errors_of_the_last_hour_without_anybodys_words(start: Start, pod, registry: FakeRegistry) -> None:
    registry.add("m", (await pod(Pod())).address)
    registry.add("gated")
    failure = ApiError("model_failed", "gated can't be served: ask for access", reason="GatedModel")
    registry.fail("gated", failure)
    door, _ = locked(key("ams-key-a", "a", Scope.GENERATE, Scope.ADMIN), key("ams-key-b", "b", Scope.GENERATE))
    running = await start(registry, door=door)
    headers = {"Authorization": "Bearer ams-key-a"}
    for _ in range(2):
        await running.post("/generate/m", {"prompt": "x"}, headers=headers)
    await running.post("/generate/m", {"prompt": "private words"}, headers={"X-Refuse": "yes"} | headers)
    await running.post("/generate/gated", {"prompt": "x"}, headers=headers)
    gated, m = (await overview(running, **headers)).models
    (error,) = gated.errors
    assert (error.code, error.message) == ("model_failed", "gated can't be served: ask for access")
    assert "token" in error.help
    of_pod = next(error for error in m.errors if error.code == "generation_failed")
    assert (of_pod.count, of_pod.message, of_pod.help) == (2, "", "The model failed on this request.")
    refused = next(error for error in m.errors if error.code == "missing_prompt")
    assert (refused.message, refused.help) == ("", "The request has no text to answer.")
    assert "private" not in str(m.errors)
    assert "secret" not in str(m.errors)
    _, m = (await overview(running, Authorization="Bearer ams-key-b")).models
    assert [error.code for error in m.errors] == ["generation_failed"]


def test_errors_are_counted_for_an_hour_and_bounded() -> None:
    errors = RecentErrors()
    errors.add("m", "timeout", "m did not\nfinish " + "x" * 500, "", 1000.0)
    errors.add("m", "timeout", "", "", 1100.0)
    errors.add("m", "no such code", "x", "", 1100.0)
    (found,) = errors.of("m", 1200.0)
    assert (found.time, found.count, len(found.message)) == (1100, 2, 300)
    assert "\n" not in found.message
    (found,) = errors.of("m", 1050.0 + 3600)
    assert found.count == 1
    assert errors.of("m", 1100.0 + 3600) == []
    for number in range(50):
        errors.add("m", "model_failed", "it failed", f"Reason{number}", 2000.0 + number)
    assert len(errors.of("m", 2050.0)) == 12
    assert errors.of("m", 2050.0)[0].time == 2049
    errors.keep_only(["other"])
    assert errors.of("m", 2050.0) == []


def test_rates_are_of_the_last_seconds_and_survive_a_restart() -> None:
    samples: list[Sample] = []
    assert rates(samples, 0.0) == Rates()
    for at in range(10):
        samples = add_sample(samples, Sample(float(at), 10 * at, 100 * at))
    assert rates(samples, 9.0) == Rates(10.0, 100.0)
    assert len(samples) <= 7
    assert rates(samples, 20.0) == Rates()  # it told nothing lately
    samples = add_sample(samples, Sample(10.0, 0, 3))  # a new process
    assert rates(samples, 10.0) == Rates()
    samples = add_sample(samples, Sample(10.1, 0, 9))
    assert rates(samples, 10.1) == Rates()  # too short to tell
    samples = add_sample(samples, Sample(11.0, 0, 13))
    assert rates(samples, 11.0) == Rates(0.0, 10.0)


async def test_a_client_that_reads_nothing_is_let_go(
    start: Start, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(route, "_STEP_SECONDS", 0.005)
    monkeypatch.setattr(route, "_SLOWEST_CLIENT_SECONDS", 0.3)
    monkeypatch.setattr(snapshot, "_SAME_MOMENT_SECONDS", 0.0)
    monkeypatch.setattr(snapshot, "_MOST_WATCHERS", 1)
    for number in range(300):
        registry.add(f"m{number}")
    running = await start(registry)
    async with raw_connection(running.port) as (_, writer):
        writer.write(b"GET /overview HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n")
        percent = 0.0
        async with asyncio.timeout(30):
            while True:
                percent = (percent + 0.1) % 100
                registry.set_progress("m0", Progress(Phase.DOWNLOADING, percent))
                await asyncio.sleep(0.005)
                if percent > 3 and not running.gateway._services.overviews._watchers:
                    break
    async with watch(running) as response:
        assert response.status == 200
    await running.gateway.close()
    assert {line["code"] for line in running.log} == {499}
