"""What pods and gateways answer is somebody else's: it costs a line of the log, and never the operator."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web
from ams_common.demand import DemandReport
from ams_common.outside import InvalidJson
from ams_common.plain import plain_text
from ams_common.progress import Progress
from ams_common.resource.spec import ModelDeployment
from ams_kube.objects import Deployment, MetadataOnly, Pod
from ams_operator.answers import TooLarge, get_json
from ams_operator.decide.status.pods import read_pod
from ams_operator.metrics import Metrics
from ams_operator.persistent import keep_running
from ams_operator.watch.cache import Cache
from ams_operator.watch.progress import ProgressPoller, believable

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

HOSTILE = {
    "no UTF-8": b'{"phase":"downloading","message":"\xff"}',
    "60,000 brackets": b'{"phase":"downloading","x":' + b"[" * 60_000,
    "a phase of another type": b'{"phase":7}',
    "a phase that isn't known": b'{"phase":"mining"}',
    "no phase": b"{}",
    "a list": b"[]",
    "less than nothing": b'{"phase":"downloading","download":{"bytesDone":-1}}',
    "more bytes than there are": b'{"phase":"downloading","download":{"bytesDone":18446744073709551615}}',
    "a percentage out of range": b'{"phase":"downloading","percent":1e308}',
    "infinite": b'{"phase":"downloading","percent":1e999}',
    "half a document": b'{"phase":"down',
    "nothing": b"",
    "HTML": b"<html>",
    "more than 64 KiB": b'{"phase":"loading","x":[' + b"0," * 40_000 + b"0]}",
}


@asynccontextmanager
async def _serving(handler: Handler) -> AsyncIterator[int]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def _pod(name: str, **metadata: Any) -> Pod:
    downloads = {"name": "download", "state": {"running": {}}}
    status = {"podIP": "127.0.0.1", "initContainerStatuses": [downloads]}
    labels = {"aimodelserver.io/model": "tiny"}
    body = {"name": name, "namespace": "a", "uid": f"uid-{name}", "labels": labels, **metadata}
    return msgspec.convert({"metadata": body, "status": status}, Pod)


@asynccontextmanager
async def _polling(handler: Handler) -> AsyncIterator[tuple[ProgressPoller, asyncio.Event]]:
    """A poller of one pod that `handler` answers for; the event is set when the pod has new progress."""
    changed = asyncio.Event()
    async with (
        _serving(handler) as port,
        aiohttp.ClientSession(auto_decompress=False) as session,
    ):
        poller = ProgressPoller(session, port, lambda: [_pod("tiny-0")], lambda key: changed.set(), Metrics())
        task = asyncio.create_task(poller.run())
        try:
            yield poller, changed
            assert not task.done()
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ams_operator.watch.progress._EVERY_SECONDS", 0.0)


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE.keys())
async def test_a_pod_that_answers_nonsense_is_asked_on_and_named_once(
    body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    count = 0

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal count
        count += 1
        good = b'{"phase":"downloading","percent":5}'
        return web.Response(body=body if count <= 3 else good, content_type="application/json")

    async with asyncio.timeout(20), _polling(answer) as (poller, changed):
        await changed.wait()
        assert poller.of["uid-tiny-0"].percent == 5
    assert [record.message.partition(":")[0] for record in caplog.records if record.levelno >= logging.WARNING] == [
        "the progress that pod a/tiny-0 answers is ignored"
    ]


async def test_a_redirect_of_a_pod_is_not_followed() -> None:
    asked: list[str] = []
    thrice = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        if len(asked) == 3:
            thrice.set()
        if request.path == "/latest/meta-data":
            return web.json_response({"phase": "downloading", "message": "secret"})
        return web.Response(status=302, headers={"Location": f"http://{request.host}/latest/meta-data"})

    async with asyncio.timeout(20), _polling(answer) as (poller, _):
        await thrice.wait()
        assert poller.of == {}
    assert set(asked) == {"/progress"}


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
async def test_an_endless_answer_is_left_early(encoding: str) -> None:
    sent = 0

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse(headers={"Content-Encoding": encoding})
        await response.prepare(request)
        with suppress(ConnectionError, asyncio.CancelledError):
            while True:
                await response.write(b"[" * (1 << 16))
                sent += 1 << 16
        return response

    async with (
        asyncio.timeout(20),
        _serving(answer) as port,
        aiohttp.ClientSession(auto_decompress=False) as session,
    ):
        with pytest.raises(TooLarge):
            await get_json(session, f"http://127.0.0.1:{port}/", DemandReport, most_bytes=1 << 16)
    assert sent < 32 << 20  # what sockets hold


def test_what_a_pod_says_is_shown_on_one_line() -> None:
    progress = believable(msgspec.json.decode(b'{"phase":"loading","message":"\\u001b[31ma\\nb"}', type=Progress))
    assert progress.message == "[31ma b"
    assert len(plain_text("x" * 100_000)) == 1000
    with pytest.raises(InvalidJson):
        believable(msgspec.json.decode(b'{"phase":"loading","eta_seconds":-1}', type=Progress))


@pytest.mark.parametrize("body", [*HOSTILE.values(), b'{"reason":"\xff"}', b'{"reason":"A","message":"a\\u001bb"}'])
def test_a_termination_message_costs_nothing(body: bytes) -> None:
    message = body.decode(errors="surrogateescape")
    for code in (0, 1):
        download = {"name": "download", "state": {"terminated": {"exitCode": code}}}
        pod = msgspec.convert({"metadata": {}, "status": {"initContainerStatuses": [download]}}, Pod)
        state = pod.status.init_container_statuses[0].state
        assert state.terminated is not None
        ended = msgspec.structs.replace(state.terminated, message=message)
        status = msgspec.structs.replace(
            pod.status.init_container_statuses[0], state=msgspec.structs.replace(state, terminated=ended)
        )
        changed = msgspec.structs.replace(pod.status, init_container_statuses=[status])
        view = read_pod(msgspec.structs.replace(pod, status=changed), None, [], 0.0)
        assert view.lock is None
        assert view.problem is None or view.problem.message.isprintable()


def _owned(kind: str, uid: str, controller: bool = True) -> list[dict[str, Any]]:
    return [{"kind": kind, "name": "x", "uid": uid, "controller": controller}]


def _known(deployment_owner: str = "uid-resource", set_owner: str = "uid-deployment") -> Cache:
    cache = Cache(lambda key, new: None)
    spec = {"model": {"source": "hf://acme/tiny"}}
    metadata = {"name": "tiny", "namespace": "a", "uid": "uid-resource"}
    cache.take_resource(msgspec.convert({"metadata": metadata, "spec": spec}, ModelDeployment))
    body = {"namespace": "a", "labels": {"aimodelserver.io/model": "tiny"}}
    owners = _owned("ModelDeployment", deployment_owner)
    deployment = {**body, "name": "ams-tiny", "uid": "uid-deployment", "ownerReferences": owners}
    cache.take_child("Deployment", msgspec.convert({"metadata": deployment}, Deployment))
    replica_set = {**body, "name": "ams-tiny-1", "uid": "uid-set", "ownerReferences": _owned("Deployment", set_owner)}
    cache.take_replica_set(msgspec.convert({"metadata": replica_set}, MetadataOnly))
    return cache


def test_only_pods_of_the_own_deployment_are_believed() -> None:
    cache = _known()
    cache.take_pod(_pod("ams-tiny-1-own", ownerReferences=_owned("ReplicaSet", "uid-set")))
    cache.take_pod(_pod("ams-tiny-1-labels-only"))
    cache.take_pod(_pod("ams-tiny-1-another-set", ownerReferences=_owned("ReplicaSet", "uid-of-another")))
    cache.take_pod(_pod("ams-tiny-1-owned", ownerReferences=_owned("ReplicaSet", "uid-set", controller=False)))
    cache.take_pod(_pod("ams-tiny-1-skips", ownerReferences=_owned("Deployment", "uid-deployment")))
    assert [pod.metadata.name for pod in cache.get("a/tiny").own_pods()] == ["ams-tiny-1-own"]
    cache.forget_replica_set("a/ams-tiny-1")
    assert cache.get("a/tiny").own_pods() == []


@pytest.mark.parametrize(
    ("deployment_owner", "set_owner"), [("uid-of-another", "uid-deployment"), ("uid-resource", "uid-of-another")]
)
def test_a_chain_that_ends_elsewhere_is_not_believed(deployment_owner: str, set_owner: str) -> None:
    cache = _known(deployment_owner, set_owner)
    cache.take_pod(_pod("ams-tiny-1-a", ownerReferences=_owned("ReplicaSet", "uid-set")))
    assert cache.get("a/tiny").own_pods() == []


async def test_a_job_that_fails_begins_again(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ams_operator.persistent._FIRST_WAIT_SECONDS", 0.001)
    runs: list[int] = []

    async def job() -> None:
        runs.append(len(runs))
        if len(runs) < 3:
            raise [RecursionError("deep"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad")][len(runs) - 1]

    async with asyncio.timeout(5):
        await keep_running("the job", job)
    assert runs == [0, 1, 2]
    assert [record.message for record in caplog.records] == ["the job failed", "the job failed"]
