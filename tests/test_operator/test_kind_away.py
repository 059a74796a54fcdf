"""The kind itself goes and comes back, and a watch that says nothing any more: the operator notices both."""

import asyncio
import json
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from ams_common import crd
from ams_common.names import GROUP, PLURAL
from ams_common.resource.spec import ModelDeployment
from ams_kube.client import Client
from ams_kube.errors import NotFound
from ams_kube.freshness import Freshness, overdue
from ams_kube.objects import Metadata
from ams_operator.metrics import Metrics
from ams_operator.watch.cache import Cache
from ams_operator.watch.models import ModelWatch
from ams_operator.web import serve_monitoring
from kube_cluster import DEFINITIONS, ControlPlane, bring_up, make_namespace
from models import MODELS, create, model, until_children
from operator_process import OperatorProcess, operating

NAME = f"{PLURAL}.{GROUP}"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("away_seconds", [0.0, 8.0])
async def test_the_kind_is_deleted_and_made_anew(stack: ExitStack, tmp_path: Path, away_seconds: float) -> None:
    """As when a cluster is restored, or GitOps prunes too much. On a cluster of its own, as all models go with it."""
    plane: ControlPlane = stack.enter_context(bring_up())
    async with await Client.connect("tests", kubeconfig=str(plane.kubeconfig)) as kube:
        await _make_kind(kube)
        namespace = await make_namespace(kube)
        leader = stack.enter_context(operating(plane, tmp_path / "a", namespace, identity="a"))
        await create(kube, namespace, "before", model())
        await until_children(kube, namespace, "before")
        await kube.delete(DEFINITIONS, None, NAME)
        await _gone(kube)
        await asyncio.sleep(away_seconds)
        await _make_kind(kube)
        for name in ("before", "after"):
            await create(kube, namespace, name, model())
        async with asyncio.timeout(40):
            for name in ("before", "after"):
                await until_children(kube, namespace, name)
        assert await asyncio.to_thread(_probe, leader, "/ready") == (200, {"status": "ready"})
        assert await asyncio.to_thread(_probe, leader, "/health") == (200, {"status": "healthy"})


async def _make_kind(kube: Client) -> None:
    await kube.apply(DEFINITIONS, None, NAME, crd.definition(), manager="tests")
    async with asyncio.timeout(30):
        while True:
            try:
                await kube.list(MODELS)
                return
            except NotFound:
                await asyncio.sleep(0.1)


async def _gone(kube: Client) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                await kube.get(DEFINITIONS, None, NAME)
            except NotFound:
                return
            await asyncio.sleep(0.1)


def _probe(process: OperatorProcess, path: str) -> tuple[int, Any]:
    found = re.search(r"metrics on port (\d+)", process.until_logged("metrics on port"))
    assert found is not None
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{found[1]}{path}", timeout=5) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


async def test_a_watch_that_says_nothing_any_more_is_noticed_and_started_anew(
    kube: Client, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it is that silenced kopf: lists show what it didn't tell."""
    monkeypatch.setattr("ams_operator.watch.models._COMPARE_SECONDS", 0.5)
    monkeypatch.setattr("ams_operator.watch.models._LATE_SECONDS", 0.2)
    runs: list[threading.Event] = []

    def stay_silent(watch: ModelWatch, loop: asyncio.AbstractEventLoop, stop: threading.Event) -> None:
        runs.append(stop)
        stop.wait(30)
        loop.call_soon_threadsafe(watch._ended.set)

    monkeypatch.setattr(ModelWatch, "_run_kopf", stay_silent)
    told = asyncio.Event()
    cache = Cache(lambda key, new: told.set())
    watch = ModelWatch(kube, cache, [namespace])
    watching = asyncio.create_task(watch.run())
    try:
        await watch.synced.wait()
        await create(kube, namespace, "untold", model())
        async with asyncio.timeout(20):
            await told.wait()
            while len(runs) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert cache.get(f"{namespace}/untold").resource is not None
        assert runs[0].is_set()
    finally:
        watch.stop()
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


def test_how_long_a_kind_was_not_heard_of() -> None:
    now = 100.0
    freshness = Freshness(lambda: now)
    now = 150.0
    freshness.tried()
    assert (freshness.unlisted_seconds, freshness.untried_seconds) == (50, 0)
    now = 160.0
    freshness.listed()
    now = 161.0
    assert (freshness.unlisted_seconds, freshness.untried_seconds) == (1, 1)


def test_which_kinds_are_not_seen_any_more() -> None:
    assert overdue([("Pod", 3.0), ("Service", 180.0)], 180.0) == ""
    assert overdue([("Pod", 200.4), ("Node", 1.0), ("Service", 181.0)], 180.0) == "Pod for 200 s, Service for 181 s"


@pytest.mark.parametrize("unready", [None, "not listed: Pod for 200 s"])
async def test_probes_tell_what_is_wrong(unready: str | None) -> None:
    told = {"unready": lambda: unready, "unhealthy": lambda: None}
    async with serve_monitoring("127.0.0.1", 0, Metrics(), **told) as port, aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{port}/ready") as answer:
            assert answer.status == (200 if unready is None else 503)
            assert (await answer.json()).get("message") == unready
        async with session.get(f"http://127.0.0.1:{port}/health") as answer:
            assert (answer.status, await answer.json()) == (200, {"status": "healthy"})


def test_what_a_watch_should_have_told_is_found_by_comparing() -> None:
    cache = Cache(lambda key, new: None)
    known = {"name": "m", "namespace": "n", "uid": "1", "resourceVersion": "7"}

    def resource(metadata: dict[str, str]) -> ModelDeployment:
        return msgspec.convert({"metadata": metadata, "spec": {"model": {"source": "hf://a/b"}}}, ModelDeployment)

    cache.take_resource(resource(known))

    def listed(**changes: str) -> dict[str, Metadata]:
        metadata = msgspec.convert(known | changes, Metadata)
        return {metadata.key: metadata}

    assert cache.lags_behind(listed()) == []
    assert cache.lags_behind(listed(resourceVersion="6")) == [], "the list is older"
    assert cache.lags_behind(listed(resourceVersion="8")) == ["n/m"]
    assert cache.lags_behind(listed(uid="2")) == ["n/m"]
    assert cache.lags_behind(listed(name="other")) == ["n/other"]
