"""What pods that serve say of themselves: who is asked when, what is believed, and which version status tells."""

import asyncio
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web
from ams_common.adapters import AdapterSettings, asked_digest
from ams_common.admin import PodAdapter, PodModel
from ams_common.labels import REVISION
from ams_common.resource.spec import ModelDeployment
from ams_common.resource.status import EngineStatus, Status
from ams_kube.client import Client
from ams_kube.objects import Metadata, MetadataOnly, OwnerReference, Pod
from ams_operator.decide.children.containers import SERVE_PORT
from ams_operator.decide.observed import Observed
from ams_operator.decide.plan import plan
from ams_operator.decide.status.serving import ServingReport, engine_version, newest_revision_first
from ams_operator.watch import serving
from ams_operator.watch.cache import Cache
from ams_operator.watch.serving import Asked, ServingPoller, Target, is_due, settled, taken
from models import DOWNLOADED, MODELS, container, create, model, pod_of, report, until
from operator_process import OperatorProcess
from plan_objects import NOW, SETTINGS, as_applied, resource
from test_health import SERVING, a_pod
from test_strangers import HOSTILE, _serving

SQL = AdapterSettings("sql", "hf://acme/sql")
FRENCH = AdapterSettings("french", "hf://acme/french")
SPEC = [{"name": each.name, "source": each.source} for each in (SQL, FRENCH)]
ENGINE = {"name": "vllm", "image": "vllm:1"}
WANTED = {"sql": asked_digest(SQL)}


def told(adapter: AdapterSettings, state: str = "ready", **more: Any) -> PodAdapter:
    return PodAdapter(name=adapter.name, state=state, asked=asked_digest(adapter), **more)


def vllm(version: str) -> ServingReport:
    return ServingReport("vllm", version)


OLDER = EngineStatus(name="vllm", version="0.14")


@pytest.mark.parametrize(
    ("reports", "before", "version"),
    [
        ([vllm("0.15")], None, "0.15"),
        ([vllm("0.15"), vllm("0.14")], OLDER, "0.15"),  # in a rollout
        ([vllm("0.15"), None], OLDER, "0.15"),
        ([None, vllm("0.13")], OLDER, "0.14"),  # the newest wasn't asked yet: nothing is told twice
        ([None, vllm("0.13")], None, None),
        ([], OLDER, "0.14"),  # none serves just now
        ([vllm("")], OLDER, "0.14"),  # its engine is started again
        ([vllm("")], None, None),
        ([ServingReport("builtin", "3.1"), vllm("0.14")], None, "0.14"),  # of the engine that was asked for before
        ([ServingReport("builtin", "3.1")], OLDER, None),
        ([None], EngineStatus(name="sglang", version="0.5"), None),
        ([ServingReport()], OLDER, None),  # a pod of an older version of ours, which doesn't tell
    ],
)
def test_which_version_is_told(reports: list[Any], before: EngineStatus | None, version: str | None) -> None:
    assert engine_version("vllm", reports, before) == version


def owned(replica_set: str) -> Metadata:
    return Metadata(name="p", owner_references=[OwnerReference(uid=replica_set, controller=True)])


def test_the_newest_revision_goes_before_the_newest_pod() -> None:
    pods = [owned("old"), owned("new"), owned("old"), Metadata(name="nobody's")]
    assert newest_revision_first(pods, {"old": 9, "new": 10}) == [1, 0, 2, 3]
    assert newest_revision_first(pods, {}) == [0, 1, 2, 3]  # of a LeaderWorkerSet: the newest pod


def test_revisions_are_what_a_deployment_calls_its_replica_sets() -> None:
    cache = Cache(lambda key, spec: None)

    def take(name: str, revision: str | None) -> None:
        annotations = {REVISION: revision} if revision is not None else {}
        labels = {"aimodelserver.io/model": "tiny"}
        cache.take_replica_set(
            MetadataOnly(Metadata(name=name, namespace="models", uid=name, labels=labels, annotations=annotations))
        )

    for name, revision in (("a", "3"), ("b", "12"), ("c", None), ("d", "-1"), ("e", "9" * 5000), ("f", "²")):
        take(name, revision)
    assert cache.get("models/tiny").revisions() == {"a": 3, "b": 12}
    take("a", "13")  # which was gone back to
    assert cache.get("models/tiny").revisions() == {"a": 13, "b": 12}


def version_told(before: EngineStatus | None = None, **reports: ServingReport) -> EngineStatus | None:
    given = resource("hf://acme/tiny", engine=ENGINE)
    made = plan(Observed(given), SETTINGS, NOW)
    children = {each["kind"]: as_applied(each) for each in made.apply}
    pods = [a_pod(name, SERVING) for name in ("0", "1")] if reports else []
    given = msgspec.structs.replace(given, status=Status(engine=before))
    observed = Observed(
        given, children=children, pods=pods, serving={uid.removeprefix("p"): each for uid, each in reports.items()}
    )
    return plan(observed, SETTINGS, NOW).status.engine


def test_status_tells_the_version_of_the_newest_pod_and_none_without_a_pod() -> None:
    found = version_told(p0=vllm("0.14"), p1=vllm("0.15"))
    assert found == EngineStatus(name="vllm", reason="spec.engine.name asks for it", version="0.15")
    assert version_told(OLDER, p0=vllm("0.13")).version == "0.14"  # type: ignore[union-attr]
    assert version_told(OLDER).version is None  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("said", "done"),
    [
        ([], False),
        ([told(SQL)], True),
        ([told(SQL, "loading")], False),
        ([told(SQL, "failed")], False),
        ([told(SQL), told(FRENCH)], False),  # one is to go
        ([msgspec.structs.replace(told(SQL), asked="another")], False),
    ],
)
def test_when_a_pod_has_all_its_adapters(said: list[PodAdapter], done: bool) -> None:
    assert settled(WANTED, said) == done


def pod(uid: str = "1", restarts: int = 0) -> Pod:
    engine = {"name": "engine", "restartCount": restarts}
    status = {"podIP": "127.0.0.1", "containerStatuses": [{"name": "serve"}, engine]}
    return msgspec.convert({"metadata": {"name": uid, "namespace": "models", "uid": uid}, "status": status}, Pod)


PLAIN = Target("models/tiny", pod())
CHANGING = Target("models/tiny", pod(), WANTED)
ALL = ServingReport("vllm", "1", (told(SQL),))


@pytest.mark.parametrize(
    ("target", "report", "asked", "at"),
    [
        (PLAIN, None, None, 0.0),
        (PLAIN, vllm("1"), Asked(0.0, 0), 600.0),
        (PLAIN, vllm("1"), Asked(0.0, 1), 0.0),  # a container was started again
        (PLAIN, None, Asked(0.0, 0, in_vain=0), 5.0),
        (PLAIN, vllm(""), Asked(0.0, 0, in_vain=3), 40.0),  # it tells no version
        (PLAIN, None, Asked(0.0, 0, in_vain=1000), 600.0),
        (CHANGING, None, Asked(0.0, 0, in_vain=3), 0.0),
        (CHANGING, vllm("1"), Asked(0.0, 0), 0.0),
        (CHANGING, ALL, Asked(0.0, 0), 60.0),
        (CHANGING, ALL, Asked(0.0, 1), 0.0),
    ],
)
def test_when_a_pod_is_asked_again(
    target: Target, report: ServingReport | None, asked: Asked | None, at: float
) -> None:
    if at:
        assert not is_due(target, report, asked, 0.7 * at)
    assert is_due(target, report, asked, 1.3 * at)


def test_a_thousand_pods_that_are_known_cost_less_than_two_requests_a_second() -> None:
    pods = [Target("models/tiny", pod(str(number))) for number in range(1000)]
    asked = dict.fromkeys(range(1000), Asked(0.0, 0))
    counts = []
    for look in range(1, 721):  # an hour
        now = look * 5.0
        due = [number for number in asked if is_due(pods[number], vllm("1"), asked[number], now)]
        asked |= dict.fromkeys(due, Asked(now, 0))
        counts.append(len(due))
    assert sum(counts) < 3600 * 2
    assert max(counts[240:]) < 60  # and not all of them at once


def test_a_pod_that_tells_another_version_each_time_is_seldom_believed() -> None:
    report, asked, told_versions = None, None, []
    for second in range(0, 3600, 5):
        report, asked = taken(PLAIN, vllm(f"0.{second}"), report, asked, float(second))
        assert report is not None
        told_versions.append(report.engine_version)
    assert len(set(told_versions)) == 6


def test_what_is_taken_of_an_answer() -> None:
    first, asked = taken(PLAIN, vllm("1"), None, None, 0.0)
    assert (first, asked) == (vllm("1"), Asked(0.0, 0, 0, 0.0))
    # One that doesn't answer, or whose engine is away, said what it said.
    assert taken(PLAIN, None, first, asked, 5.0) == (first, Asked(5.0, 0, 1, 0.0))
    assert taken(PLAIN, vllm(""), first, asked, 1000.0)[0] == first
    assert taken(PLAIN, vllm("2"), first, asked, 5.0)[0] == first
    assert taken(PLAIN, vllm("2"), first, asked, 600.0) == (vllm("2"), Asked(600.0, 0, 0, 600.0))
    # Adapters are taken at once, and another version after a start.
    assert taken(PLAIN, ServingReport("vllm", "2", (told(SQL),)), first, asked, 5.0)[0] == ALL
    again = Target("models/tiny", pod(restarts=1))
    assert taken(again, vllm("2"), first, asked, 5.0) == (vllm("2"), Asked(5.0, 1, 0, 5.0))
    # In vain: without a version.
    assert taken(PLAIN, vllm(""), None, Asked(0.0, 0, 2), 5.0) == (vllm(""), Asked(5.0, 0, 3, 5.0))
    assert taken(again, None, first, Asked(0.0, 0, 2), 5.0) == (first, Asked(5.0, 1, 1))


def believed(**answer: Any) -> ServingReport:
    return serving.believable(msgspec.convert(answer, serving._Answer))


def test_what_a_pod_says_is_made_fit_to_be_shown() -> None:
    [found] = believed(adapters=[{"name": "sql", "state": "failed", "message": "a\nb\x1b[31m" + "x" * 5000}]).adapters
    assert found.message.startswith("a b [31mx")
    assert len(found.message) == 1000
    assert believed() == ServingReport()
    assert len(believed(adapters=[{"name": "sql"}] * 1000).adapters) == 64
    found = believed(engine_name="vllm\x00", engine_version="1.\u202e2\n" + "3" * 5000)
    assert (found.engine, found.engine_version[:6], len(found.engine_version)) == ("vllm", "1. 2 3", 64)


@pytest.mark.parametrize(
    "body", [*HOSTILE.values(), b'{"adapters":[{"name":7}]}', b'{"adapters":{}}', b'{"engine_version":1.5}']
)
async def test_pods_are_asked_and_nonsense_is_nothing(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answers = 0, [body, msgspec.json.encode(PodModel(adapters=[told(SQL, "loading")])), b""]
    loaded = PodModel(adapters=[told(SQL)], engine_name="vllm", engine_version="1")
    answers += [msgspec.json.encode(loaded)] * 9

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal asked
        assert request.path == "/admin/model_status"
        asked += 1
        return web.Response(body=answers[asked - 1], content_type="application/json")

    changed: list[str] = []
    present = [CHANGING]
    async with asyncio.timeout(20), _serving(answer) as port, aiohttp.ClientSession() as session:
        monkeypatch.setattr(serving, "SERVE_PORT", port)
        poller = ServingPoller(session, lambda: present, changed.append)
        await poller.look(0.0)
        assert poller.of.get("1", ServingReport()) == ServingReport()
        changed.clear()
        await poller.look(5.0)
        assert [each.state for each in poller.of["1"].adapters] == ["loading"]
        await poller.look(10.0)  # answered nothing, which changes nothing
        await poller.look(15.0)
        assert poller.of["1"] == ALL
        assert changed == ["models/tiny"] * 2
        await poller.look(20.0)
        assert asked == 4  # it has all, and isn't asked for a while
        await poller.look(80.0)
        assert asked == 5
        present[0] = Target("models/tiny", pod(), {**WANTED, "french": asked_digest(FRENCH)})
        await poller.look(81.0)
        assert asked == 6  # for adapters and version at once
        present[0] = PLAIN
        await poller.look(141.0)
        assert asked == 6
        present.clear()
        await poller.look(142.0)
        assert poller.of == {}


def test_which_pods_are_asked() -> None:
    class Known:
        def __init__(self, *pods: Pod) -> None:
            self._pods = pods

        def own_pods(self) -> tuple[Pod, ...]:
            return self._pods

    class Models:
        def __init__(self, given: ModelDeployment, *pods: Pod) -> None:
            self._given, self._known = given, Known(*pods)

        def resources(self) -> list[ModelDeployment]:
            return [self._given]

        def get(self, key: str) -> Known:
            return self._known

    def ready(uid: str, ready: str = "True", address: str = "10.0.0.1") -> Pod:
        conditions = [{"type": "Ready", "status": ready}]
        document = {"metadata": {"name": uid, "uid": uid}, "status": {"podIP": address, "conditions": conditions}}
        return msgspec.convert(document, Pod)

    def asked(engine: str | None, adapters: list[dict[str, Any]]) -> set[str] | None:
        given = resource("hf://acme/tiny", engine=ENGINE, adapters=adapters)
        given = msgspec.structs.replace(given, status=Status(engine=EngineStatus(name=engine)))
        [found] = serving.targets(Models(given, ready("a"), ready("b", "False"), ready("c", address="")))  # type: ignore[arg-type]
        assert found.pod.metadata.uid == "a"
        return set(found.wanted) if found.wanted is not None else None

    assert asked("vllm", SPEC) == {"sql", "french"}
    for engine, adapters in (("vllm", []), ("llamacpp", SPEC), (None, SPEC), ("of-tomorrow", SPEC)):
        assert asked(engine, adapters) is None


POD_ADDRESS = "127.77.0.2"  # where the stand-in for a pod answers


async def test_the_version_of_a_pod_becomes_status(kube: Client, home: str, operator: OperatorProcess) -> None:
    said = {"version": "0.15.1+cpu"}

    async def answer(request: web.Request) -> web.Response:
        body = msgspec.json.encode(PodModel(engine_name="vllm", engine_version=said["version"]))
        return web.Response(body=body, content_type="application/json")

    async def until_version(version: str) -> None:
        def holds(objects: dict[str, Any]) -> bool:
            status = objects["versioned"].status if "versioned" in objects else None
            return status is not None and status.engine is not None and status.engine.version == version

        await until(kube, MODELS, home, holds)

    app = web.Application()
    app.router.add_get("/admin/model_status", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, POD_ADDRESS, SERVE_PORT).start()
    try:
        await create(kube, home, "versioned", model("hf://acme/tiny", engine={"name": "vllm", "image": "vllm:test"}))
        found = await pod_of(kube, home, "versioned")
        conditions = [{"type": kind, "status": "True"} for kind in ("PodScheduled", "Ready", "ContainersReady")]

        async def serve(restarts: int) -> None:
            running = [container(name, ready=True, restarts=restarts, running={}) for name in ("serve", "engine")]
            await report(
                kube, found, initContainerStatuses=[DOWNLOADED], containerStatuses=running, conditions=conditions,
                podIP=POD_ADDRESS, podIPs=[{"ip": POD_ADDRESS}], phase="Running",
            )  # fmt: skip

        await serve(restarts=0)
        await until_version("0.15.1+cpu")
        said["version"] = "0.16.0\u202e"
        await serve(restarts=1)  # with another image of the same name
        await until_version("0.16.0")
    finally:
        await runner.cleanup()
