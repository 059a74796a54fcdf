"""`GET /admin/why`, and `ams why` in front of it: whatever became of a request, its id leads to what happened."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from ams_cli import why
from ams_cli.gateway_access import GatewayAccess
from ams_cli.gateway_client import at_url
from ams_common.keys import KeyFile
from ams_common.lifecycle import Phase
from ams_common.progress import Progress
from ams_common.timeline import MOST_INTERVALS, TIMELINES_PATH
from ams_gateway.front import recent
from test_gateway.conftest import Running, Start
from test_gateway.gateway_fakes import Exchange, FakePod, FakeRegistry, post, raw_connection
from test_gateway.test_keys import ADMIN, TEAM, bearer, door_of, stored

StartPod = Callable[..., Awaitable[FakePod]]
PROMPT = {"prompt": "x", "max_new_tokens": 5}


async def ask(running: Running, **query: str) -> tuple[int, Any]:
    async with running.client.get(f"{running.url}/admin/why", params=query) as answer:
        return answer.status, await answer.json()


def telling(timelines: Any) -> Callable[[Exchange], Awaitable[None]]:
    """A pod that answers, and tells these timelines."""

    async def behave(exchange: Exchange) -> None:
        if exchange.request.target.startswith(TIMELINES_PATH):
            await exchange.answer(200, timelines if isinstance(timelines, bytes) else json.dumps(timelines).encode())
        else:
            await exchange.json(200, {"response": "a"}, X_AMS_Usage="prompt=3 completion=2")

    return behave


async def test_the_pods_record_is_put_beside_the_gateways(start: Start, pod: StartPod, registry: FakeRegistry) -> None:
    timeline = {
        "component": "pod", "id": "mine", "started": time.time(), "seconds": 9.0, "model": "of another", "pod": "liar",
        "intervals": [{"name": "slot", "start": 0, "seconds": 0.0002}],
    }  # fmt: skip
    registry.add("m", (await pod(telling({"timelines": [timeline, timeline | {"id": "other"}]}))).address)
    running = await start(registry)
    status, _, headers = await running.post("/generate/m", PROMPT, headers={"X-Request-Id": "mine"})
    assert (status, headers["X-Request-Id"]) == (200, "mine")
    status, found = await ask(running, request="mine")
    assert status == 200
    assert [(each["component"], each["pod"], each["model"]) for each in found["timelines"]] == [
        ("gateway", "m-0", "m"),
        ("pod", "m-0", "m"),
    ]
    assert {cause["code"] for cause in found["causes"]} >= {"batch-full"}
    assert found["sentence"] == found["causes"][0]["sentence"]


@pytest.mark.parametrize(
    "said",
    [b"", b"[]", b"{" * 100_000, b'{"timelines":[{"component":"pod"}]}', b'{"timelines":"x"}', b"\xff" * 5_000_000,
     json.dumps({"timelines": [{"component": "pod", "id": "mine", "started": 1e308, "seconds": 1e9}]}).encode()],
    ids=["nothing", "list", "deep", "half", "text", "large", "ages"],
)  # fmt: skip
async def test_a_hostile_pod_is_only_not_believed(
    start: Start, pod: StartPod, registry: FakeRegistry, said: bytes
) -> None:
    registry.add("m", (await pod(telling(said))).address)
    running = await start(registry)
    await running.post("/generate/m", PROMPT, headers={"X-Request-Id": "mine"})
    status, found = await ask(running, request="mine")
    assert status == 200
    assert found["causes"][0]["sentence"]
    assert (await ask(running, model="m"))[0] == 200


async def test_each_error_leads_to_its_request(start: Start, registry: FakeRegistry) -> None:
    registry.add("m")
    registry.set_progress("m", Progress(Phase.READING, 40.0))
    running = await start(registry, hold_seconds=0.05)
    for path, body, code in (
        ("/generate/m", PROMPT, 503),
        ("/generate/nobody", PROMPT, 404),
        ("/generate/m", b"{", 400),
        ("/v1/chat/completions", {"model": "m", "messages": "x"}, 400),
        ("/nowhere", {}, 404),
    ):
        status, answer, headers = await running.post(path, body)
        assert status == code
        said = answer["error"] if path.startswith("/v1") else answer["details"]
        assert said["request_id"] == headers["X-Request-Id"]
        status, found = await ask(running, request=said["request_id"])
        assert status == 200
        assert found["timelines"][0]["code"] == code
        assert found["timelines"][0]["message"]


async def test_who_left_and_who_still_waits(start: Start, registry: FakeRegistry) -> None:
    registry.add("m")
    registry.set_progress("m", Progress(Phase.DOWNLOADING, 40.0))
    running = await start(registry)
    async with raw_connection(running.port) as (_, writer):
        writer.write(post("/generate/m", json.dumps(PROMPT).encode(), "X-Request-Id: waits"))
        await registry.entries["m"].demanded.wait()
        await asyncio.sleep(0.05)
        _, found = await ask(running, request="waits")
        assert found["timelines"][0]["running"]
        assert found["timelines"][0]["intervals"][-1]["name"] == "hold"
        assert found["sentence"].endswith("it is still running.")
    await registry.entries["m"].withdrawn.wait()
    await asyncio.sleep(0.05)
    _, found = await ask(running, request="waits")
    assert found["timelines"][0]["code"] == 499
    assert (found["causes"][0]["code"], "the client left" in found["sentence"]) == ("download", True)


async def test_what_is_not_known_is_told_with_how_far_back_records_go(
    start: Start, pod: StartPod, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recent, "_MOST_ORDINARY", 3)
    registry.add("m", (await pod()).address)
    running = await start(registry)
    for number in range(6):
        await running.post("/generate/m", PROMPT, headers={"X-Request-Id": f"r{number}"})
    assert (await ask(running, request="r5"))[0] == 200
    status, refused = await ask(running, request="r0")
    assert (status, refused["details"]["code"]) == (404, "request_unknown")
    assert "the last" in refused["error"]


async def test_a_flood_of_good_requests_forgets_no_failure(
    start: Start, pod: StartPod, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recent, "_MOST_ORDINARY", 3)
    registry.add("m", (await pod()).address)
    running = await start(registry)
    await running.post("/generate/nobody", PROMPT, headers={"X-Request-Id": "failed"})
    for _ in range(20):
        await running.post("/generate/m", PROMPT)
    assert (await ask(running, request="failed"))[1]["causes"][0]["code"] == "model-unknown"


@pytest.mark.parametrize("id", ["x" * 500, "a b", "é", "../..", "%00", "a&model=m", ""])
async def test_hostile_ids(start: Start, pod: StartPod, registry: FakeRegistry, id: str) -> None:
    registry.add("m", (await pod()).address)
    running = await start(registry)
    for _ in range(3):
        async with running.client.post(
            f"{running.url}/generate/m", json=PROMPT, headers={"X-Request-Id": id.encode().decode("latin-1")}
        ) as answer:
            known = answer.headers["X-Request-Id"]
    assert (await ask(running, request=known))[0] == 200
    assert (await ask(running, request=id))[0] in (200, 400, 404)


async def test_retries_are_bounded_in_what_is_noted(start: Start, pod: StartPod, registry: FakeRegistry) -> None:
    async def drains(exchange: Exchange) -> None:
        await exchange.json(503, {"error": "stopping", "details": {"code": "draining"}})

    registry.add("m", *[(await pod(drains)).address for _ in range(3)])
    running = await start(registry)
    status, _, headers = await running.post("/generate/m", PROMPT)
    assert status == 503
    _, found = await ask(running, request=headers["X-Request-Id"])
    assert len(found["timelines"][0]["intervals"]) <= MOST_INTERVALS
    assert found["causes"][0]["code"] == "pod-draining"


async def test_it_is_for_admins(start: Start, registry: FakeRegistry, tmp_path: Path) -> None:
    registry.add("m")
    door = door_of(tmp_path, KeyFile(keys=(stored("team", TEAM), stored("admin", ADMIN, scopes=("admin",)))))
    running = await start(registry, door=door)
    for headers, expected in (({}, 401), (bearer(TEAM), 403), (bearer(ADMIN), 200)):
        async with running.client.get(f"{running.url}/admin/why", params={"model": "m"}, headers=headers) as answer:
            assert answer.status == expected


async def test_bad_questions(start: Start, registry: FakeRegistry) -> None:
    running = await start(registry)
    assert (await ask(running, request="a", model="b"))[0] == 400
    assert (await ask(running, model="nobody"))[0] == 404
    assert (await ask(running))[1]["causes"][0]["code"] == "nothing"


# the command


async def test_the_command_asks_for_a_model_and_then_for_a_request(
    start: Start, pod: StartPod, registry: FakeRegistry
) -> None:
    registry.add("m", (await pod()).address)
    running = await start(registry)
    await running.post("/generate/m", PROMPT, headers={"X-Request-Id": "mine"})
    async with at_url(running.url, GatewayAccess()) as gateway:
        of_model, of_request, of_all = (
            await why.ask(gateway, "m"),
            await why.ask(gateway, "mine"),
            await why.ask(gateway, ""),
        )
        with pytest.raises(why.NotKnown, match="No record of a request nothing-of-it"):
            await why.ask(gateway, "nothing-of-it")
    assert (of_model.about, of_request.about, of_all.about) == ("model", "request", "models")
    text = why.as_text(of_request)
    assert text.splitlines()[0] == of_request.sentence
    assert "█" in text
    assert "what to do: " in text
    assert why.as_text(of_request, blocks=False).isascii()
    assert json.loads(why.as_json(of_request))["name"] == "mine"


def test_what_others_wrote_can_not_write_on_the_terminal() -> None:
    from ams_common.why.story import Cause, Why

    hostile = "\x1b[2Jgone\nsecond line"
    cause = Cause(code="x", sentence=hostile, evidence=[hostile], help=hostile)
    found = Why(about="request", name="x", sentence=hostile, causes=[cause], notes=[hostile])
    text = why.as_text(found)
    assert "\x1b" not in text
    assert "\nsecond" not in text
