"""What the gateway makes of ResourceViews and EndpointSlices: names, pods, progress, refusals."""

import asyncio
from typing import Any

import msgspec
import pytest
from ams_common.errors import ApiError
from ams_gateway.registry.cluster.reading import read_resource, read_slice
from ams_gateway.registry.cluster.registry import ClusterRegistry
from ams_gateway.registry.port import KeepAnswers
from ams_kube.objects import EndpointSlice
from ams_kube.views import ResourceView
from test_gateway.conftest import Start


def resource(name: str, namespace: str = "prod", created: str = "2026-01-01T00:00:00Z", **rest: Any) -> ResourceView:
    spec = {"model": {"source": "hf://o/n", "aliases": rest.pop("aliases", [])}} | rest.pop("spec", {})
    return msgspec.convert(
        {
            "metadata": {
                "name": name,
                "namespace": namespace,
                "uid": f"{namespace}-{name}",
                "creationTimestamp": created,
            },
            "spec": spec,
            "status": rest.pop("status", {}),
        },
        ResourceView,
    )


def slice_of(model: str, *pods: tuple[str, str, dict[str, bool]], key: str = "s", port: int = 8080) -> EndpointSlice:
    return msgspec.convert(
        {
            "metadata": {
                "name": f"ams-{model}-{key}",
                "namespace": "prod",
                "labels": {"kubernetes.io/service-name": f"ams-{model}"},
            },
            "endpoints": [
                {"addresses": [address], "conditions": conditions, "targetRef": {"name": name, "uid": f"uid-{name}"}}
                for name, address, conditions in pods
            ],
            "ports": [{"name": "http", "port": port}],
        },
        EndpointSlice,
    )


def condition(kind: str, status: str, reason: str, message: str = "") -> dict[str, str]:
    return {"type": kind, "status": status, "reason": reason, "message": message}


@pytest.fixture
def registry() -> ClusterRegistry:
    return ClusterRegistry()


def test_names_and_aliases_belong_to_the_oldest_and_each_has_its_full_name(registry: ClusterRegistry) -> None:
    registry.take_resource(resource("qwen-vl", "later", "2026-02-01T00:00:00Z"))
    registry.take_resource(resource("qwen-vl", "prod", "2026-01-01T00:00:00Z"))
    registry.take_resource(resource("chat", "prod", "2026-03-01T00:00:00Z", aliases=["Qwen/VL", "qwen-vl"]))
    assert [model.name for model in registry.models()] == ["chat", "later.qwen-vl", "qwen-vl"]

    def leads_to(name: str) -> str | None:
        model = registry.find(name)
        return model.key if model else None

    assert leads_to("qwen_vl") == leads_to("Qwen-VL") == leads_to("prod.qwen-vl") == "prod/qwen-vl"
    assert leads_to("later.qwen_vl") == "later/qwen-vl"
    assert leads_to("qwen/vl") == "prod/chat"
    assert [model.aliases for model in registry.models()] == [("Qwen/VL",), (), ()], "only those that lead to it"
    registry.forget_resource("prod/qwen-vl")
    assert leads_to("qwen-vl") == "later/qwen-vl"
    assert leads_to("prod.qwen-vl") is None


def test_confined_names_are_those_of_their_namespace_only() -> None:
    registry = ClusterRegistry(confine_names=True)
    registry.take_resource(resource("gpt-4o", "thief", "2026-01-01T00:00:00Z", aliases=["chat", "team.chat"]))
    registry.take_resource(resource("chat", "team", "2026-02-01T00:00:00Z", aliases=["gpt-4o"]))
    found = {
        name: (model.key if (model := registry.find(name)) else None)
        for name in ("gpt-4o", "chat", "thief.gpt-4o", "thief.chat", "thief.team.chat", "team.chat", "team.gpt_4o")
    }
    assert found == {
        "gpt-4o": None,
        "chat": None,
        "thief.gpt-4o": "thief/gpt-4o",
        "thief.chat": "thief/gpt-4o",
        "thief.team.chat": "thief/gpt-4o",
        "team.chat": "team/chat",
        "team.gpt_4o": "team/chat",
    }
    assert [model.name for model in registry.models()] == ["team.chat", "thief.gpt-4o"]


def test_only_pods_that_take_requests_are_backends_and_they_keep_their_identity(registry: ClusterRegistry) -> None:
    registry.take_resource(resource("m"))
    model = registry.find("m")
    assert model is not None
    registry.take_slice(
        slice_of("m", ("a", "198.51.100.1", {"ready": True}), ("b", "198.51.100.2", {"ready": False}), ("c", "::1", {}))
    )
    first = {backend.id: backend for backend in registry.backends(model)}
    assert {name: backend.address for name, backend in first.items()} == {
        "a": "http://198.51.100.1:8080",
        "c": "http://[::1]:8080",
    }
    registry.take_slice(slice_of("m", ("d", "198.51.100.4", {}), key="second"))
    registry.take_slice(
        slice_of("m", ("a", "198.51.100.1", {"ready": True, "terminating": True}), ("c", "::1", {"ready": True}))
    )
    assert sorted(backend.id for backend in registry.backends(model)) == ["c", "d"]
    assert first["c"] in registry.backends(model)
    registry.forget_slice("prod/ams-m-s")
    assert [backend.id for backend in registry.backends(model)] == ["d"]


def test_a_slice_without_port_or_endpoints_has_no_pods() -> None:
    empty = msgspec.convert({"metadata": {"name": "x"}, "endpoints": None, "ports": None}, EndpointSlice)
    assert read_slice(empty) == {}


def test_which_engine_computes_comes_from_status() -> None:
    engine = {"name": "vllm", "reason": "a GPU is asked for", "version": "0.32.0"}
    facts = read_resource(resource("m", status={"engine": engine})).model.facts
    assert (facts.engine, facts.engine_reason, facts.engine_version) == tuple(engine.values())


def test_download_progress_comes_from_status() -> None:
    status = {
        "phase": "Downloading",
        "message": "43 %, 2.9 of 6.8 GiB",
        "download": {"bytesDone": 43, "bytesTotal": 100, "bytesPerSecond": 1.0, "etaSeconds": 190},
        "conditions": [condition("WeightsReady", "False", "Downloading")],
    }
    progress = read_resource(resource("m", status=status)).progress
    assert (progress.phase, progress.percent, progress.eta_seconds) == ("downloading", 43.0, 190)
    assert progress.message == "43 %, 2.9 of 6.8 GiB"


@pytest.mark.parametrize(
    ("kind", "reason", "refused"),
    [
        ("PreflightPassed", "GatedModel", True),
        ("Accepted", "UnsupportedArchitecture", True),
        ("WeightsReady", "DiskFull", True),
        ("Available", "LoadFailed", True),
        ("Available", "ImagePullFailed", True),
        ("Available", "Unschedulable", False),  # a node may be on its way
        ("Available", "ScaledToZero", False),
        ("WeightsReady", "HubRateLimited", False),
        ("WeightsReady", "Downloading", False),
    ],
)
async def test_what_does_not_pass_by_itself_is_refused_with_its_reason(
    registry: ClusterRegistry, kind: str, reason: str, refused: bool
) -> None:
    status = {"replicas": 1, "conditions": [condition(kind, "False", reason, "It is so.")]}
    registry.take_resource(resource("m", status=status))
    model = registry.find("m")
    assert model is not None
    waiting = registry.wait_ready(model)
    if refused:
        with pytest.raises(ApiError, match=r"m can't be served: It is so\.") as told:
            await anext(aiter(waiting))
        assert (told.value.code, told.value.details["reason"]) == ("model_failed", reason)
    else:
        assert (await anext(aiter(waiting))).failure is None
    await waiting.aclose()  # type: ignore[attr-defined]


def test_what_failed_in_the_last_pod_or_for_the_last_spec_may_not_fail_again() -> None:
    failed = {"replicas": 1, "observedGeneration": 1, "conditions": [condition("WeightsReady", "False", "DiskFull")]}
    assert read_resource(resource("m", status=failed)).refusal is not None
    assert read_resource(resource("m", status=failed | {"replicas": 0})).refusal is None
    edited = resource("m", status=failed)
    edited = msgspec.structs.replace(edited, metadata=msgspec.structs.replace(edited.metadata, generation=2))
    assert read_resource(edited).refusal is None
    refused = {"conditions": [condition("PreflightPassed", "False", "GatedModel")]}
    assert read_resource(resource("m", status=refused)).refusal is not None, "no pod is made for it"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"suspend": True}, "m is suspended."),
        ({"replicas": 0}, "m is stopped by spec.replicas: 0."),
        ({"replicas": 0, "autoscaling": {"minReplicas": 0}}, None),
    ],
)
async def test_a_model_that_no_request_starts_says_so_at_once(
    registry: ClusterRegistry, spec: dict[str, Any], words: str | None
) -> None:
    registry.take_resource(resource("m", spec=spec))
    model = registry.find("m")
    assert model is not None
    waiting = registry.wait_ready(model)
    if words is None:
        assert (await anext(aiter(waiting))).failure is None
    else:
        with pytest.raises(ApiError) as told:
            await anext(aiter(waiting))
        assert (told.value.code, told.value.message) == ("suspended", words)
    await waiting.aclose()  # type: ignore[attr-defined]


async def test_waiting_ends_when_a_pod_is_ready_and_fails_when_the_model_goes(registry: ClusterRegistry) -> None:
    registry.take_resource(resource("m", status={"phase": "Starting"}))
    model = registry.find("m")
    assert model is not None
    told: list[str] = []
    second = asyncio.Event()

    async def follow() -> None:
        async for progress in registry.wait_ready(model):
            told.append(progress.phase)
            if len(told) == 2:
                second.set()

    task = asyncio.create_task(follow())
    await asyncio.sleep(0)
    registry.take_resource(resource("m", status={"phase": "Loading"}))
    await second.wait()
    registry.take_slice(slice_of("m", ("a", "198.51.100.1", {"ready": True})))
    await task
    assert told == ["starting", "loading"]
    registry.forget_slice("prod/ams-m-s")
    task = asyncio.create_task(follow())
    await asyncio.sleep(0)
    registry.forget_resource("prod/m")
    with pytest.raises(ApiError, match=r"m was deleted") as error:
        await task
    assert error.value.code == "model_not_found"


async def test_suspended_is_said(registry: ClusterRegistry) -> None:
    registry.take_resource(resource("m", spec={"suspend": True}))
    model = registry.find("m")
    assert model is not None
    with pytest.raises(ApiError, match="suspended") as told:
        await anext(aiter(registry.wait_ready(model)))
    assert told.value.status == 503


async def test_a_pod_that_cannot_be_reached_is_left_out_until_it_answers(
    start: Start, pod, registry: ClusterRegistry
) -> None:
    """The slice still lists the dead pod: its requests go to the other, and it returns when it answers again."""
    dead, alive = await pod(), await pod()
    await dead.stop()
    registry.take_resource(resource("m"))
    registry.take_slice(
        EndpointSlice(
            metadata=slice_of("m").metadata,
            endpoints=[*(slice_of("m", ("dead", "127.0.0.1", {})).endpoints or [])],
            ports=slice_of("m", port=dead.port).ports,
        )
    )
    registry.take_slice(slice_of("m", ("alive", "127.0.0.1", {}), key="second", port=alive.port))
    running = await start(registry)
    for _ in range(10):
        status, answer, _ = await running.post("/generate/m", {"prompt": "x"})
        assert (status, answer) == (200, {"response": "hello"})
    model = registry.find("m")
    assert model is not None
    assert [backend.id for backend in registry.backends(model)] == ["alive"]
    await dead.start()
    registry.forget_slice("prod/ams-m-second")
    status, answer, _ = await running.post("/generate/m", {"prompt": "x"})  # held until the pod is back
    assert (status, answer) == (200, {"response": "hello"})
    assert [backend.id for backend in registry.backends(model)] == ["dead"]
    await registry.close()


def test_answers_are_kept_where_the_resource_asks_for_it() -> None:
    spec = {"cache": {"answers": {"seconds": 60, "bytes": "2Mi"}}}
    assert read_resource(resource("m", spec=spec)).model.answers == KeepAnswers(60, 2 << 20)
    assert read_resource(resource("m", spec={"cache": {"answers": {}}})).model.answers == KeepAnswers(3600, 64 << 20)
    assert read_resource(resource("m", spec={"cache": {"size": "1Gi"}})).model.answers is None
