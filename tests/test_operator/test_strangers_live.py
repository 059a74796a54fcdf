"""Pods that mean harm, and policies against who isn't asked, on a real API server."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from ams_kube.client import Client
from ams_kube.kinds import Kind
from kube_cluster import Anything, ControlPlane
from models import CHILDREN, MODELS, PODS, container, create, model, pod_of, report, until, until_children
from operator_process import operating

POLICIES = Kind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies", Anything)
PEERS = [{"podSelector": {"matchLabels": {"app": "gateway"}}}]
DOWNLOADING = container("download", running={"startedAt": "2026-01-01T00:00:00Z"})
EVIL_LABELS = {"app.kubernetes.io/managed-by": "ams-operator", "aimodelserver.io/model": "evil"}


@asynccontextmanager
async def _answering(bodies: list[bytes]) -> AsyncIterator[tuple[int, asyncio.Event]]:
    """A port that answers with each of `bodies` in turn, and whether all were given."""
    all_given, count = asyncio.Event(), 0

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal count
        body = bodies[count % len(bodies)]
        count += 1
        if count > len(bodies):
            all_given.set()
        return web.Response(body=body, content_type="application/json")

    app = web.Application()
    app.router.add_get("/progress", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1], all_given
    finally:
        await runner.cleanup()


@pytest.mark.filterwarnings("ignore::aiohttp.web_exceptions.NotAppKeyWarning")
async def test_a_pods_answer_ends_nothing_and_strangers_are_not_asked(
    kube: Client, home: str, control_plane: ControlPlane, tmp_path: Path
) -> None:
    hostile = [b'{"phase":"downloading","message":"\xff"}', b'{"phase":"downloading","x":' + b"[" * 60_000]
    async with _answering(hostile) as (port, all_given):
        with operating(control_plane, tmp_path / "log", home, progress_port=port) as operator:
            stranger = {"name": "stranger", "labels": EVIL_LABELS}
            spec = {
                "nodeSelector": {"ams-test/node": "none"},
                "initContainers": [{"name": "download", "image": "x"}],
                "containers": [{"name": "serve", "image": "x"}],
            }
            pod = await kube.create(PODS, home, {"metadata": stranger, "spec": spec})
            await report(kube, pod, podIP="127.0.0.1", initContainerStatuses=[DOWNLOADING])
            await create(kube, home, "evil", model())
            await until_children(kube, home, "evil")
            own = await until(kube, PODS, home, lambda pods: any(name.startswith("ams-evil-") for name in pods))
            name = next(name for name in own if name.startswith("ams-evil-"))
            await report(kube, own[name], podIP="127.0.0.1", initContainerStatuses=[DOWNLOADING])
            async with asyncio.timeout(30):
                await all_given.wait()
            await create(kube, home, "other", model())
            await until_children(kube, home, "other")
            assert operator.running()
            ignored = [line for line in operator.text().splitlines() if "is ignored" in line]
            assert len(ignored) == 1
            assert f"{home}/{name}" in ignored[0]
            assert "Traceback" not in operator.text()
    for each in ("evil", "other"):
        await kube.delete(MODELS, home, each)


async def test_each_model_has_a_policy_while_they_are_wanted(
    kube: Client, home: str, control_plane: ControlPlane, tmp_path: Path
) -> None:
    with operating(control_plane, tmp_path / "log", home, network_policy_from=json.dumps(PEERS)):
        resource = await create(kube, home, "closed", model())
        await until_children(kube, home, "closed", (POLICIES, *CHILDREN))
        policy = await kube.get(POLICIES, home, "ams-closed")
        assert [owner["uid"] for owner in policy.metadata.owner_references] == [resource.metadata.uid]
        pod = await pod_of(kube, home, "closed")
        assert pod.metadata.labels.items() >= policy.spec["podSelector"]["matchLabels"].items()
        assert policy.spec["ingress"][0]["from"] == PEERS
    with operating(control_plane, tmp_path / "log2", home):
        await until(kube, POLICIES, home, lambda policies: "ams-closed" not in policies)
    await kube.delete(MODELS, home, "closed")
