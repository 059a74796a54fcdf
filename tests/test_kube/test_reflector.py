"""A copy that stays true: through changes, through an API server that goes away, and through broken objects."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from ams_kube.client import Client
from ams_kube.kinds import Kind
from ams_kube.reflector import Reflector
from kube_cluster import Anything, ControlPlane

MAPS = Kind("v1", "ConfigMap", "configmaps", Anything)


class Copy:
    """What a reflector delivered."""

    def __init__(self) -> None:
        self.objects: dict[str, Any] = {}
        self._changed = asyncio.Event()

    def take(self, given: Any) -> None:
        self.objects[given.metadata.name] = given
        self._changed.set()

    def forget(self, key: str) -> None:
        del self.objects[key.partition("/")[2]]
        self._changed.set()

    async def until(self, holds: Callable[[dict[str, Any]], bool]) -> None:
        async with asyncio.timeout(60):
            while not holds(self.objects):
                self._changed.clear()
                await self._changed.wait()


@asynccontextmanager
async def reflecting(client: Client, kind: Kind[Any], namespace: str) -> AsyncIterator[Copy]:
    copy = Copy()
    reflector = Reflector(client, kind, copy.take, copy.forget, namespace=namespace, labels="!skip", fields=FIELDS)
    task = asyncio.create_task(reflector.run())
    try:
        async with asyncio.timeout(30):
            await reflector.synced.wait()
        yield copy
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


FIELDS = "metadata.name!=kube-root-ca.crt"


async def test_it_follows_what_is_made_changed_and_deleted(kube: Client, namespace: str) -> None:
    await kube.create(MAPS, namespace, {"metadata": {"name": "before"}})
    async with reflecting(kube, MAPS, namespace) as copy:
        assert set(copy.objects) == {"before"}, "synced after the first whole list"
        await kube.create(MAPS, namespace, {"metadata": {"name": "after"}})
        await kube.create(MAPS, namespace, {"metadata": {"name": "not-ours", "labels": {"skip": "1"}}})
        await kube.delete(MAPS, namespace, "before")
        await kube.merge(MAPS, namespace, "after", {"data": {"x": "1"}})
        await copy.until(lambda objects: set(objects) == {"after"} and objects["after"].data == {"x": "1"})


class Named(msgspec.Struct):
    name: str
    namespace: str


class Numbers(msgspec.Struct):
    metadata: Named
    data: dict[str, str]


async def test_an_object_that_cant_be_read_hides_no_other(
    kube: Client, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    await kube.create(MAPS, namespace, {"metadata": {"name": "broken"}})  # has no data
    await kube.create(MAPS, namespace, {"metadata": {"name": "whole"}, "data": {"x": "1"}})
    kind: Kind[Any] = Kind("v1", "ConfigMap", "configmaps", Numbers)
    async with reflecting(kube, kind, namespace) as copy:
        assert set(copy.objects) == {"whole"}
        assert f"ConfigMap {namespace}/broken can't be read" in caplog.text
        await kube.merge(MAPS, namespace, "broken", {"data": {"x": "1"}})
        await copy.until(lambda objects: set(objects) == {"broken", "whole"})


async def test_a_mistake_over_one_object_ends_no_watch(
    kube: Client, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    taken: set[str] = set()
    both = asyncio.Event()

    def take(given: Any) -> None:
        if given.metadata.name == "odd":
            raise KeyError("odd")
        taken.add(given.metadata.name)
        if taken == {"a", "b"}:
            both.set()

    await kube.create(MAPS, namespace, {"metadata": {"name": "odd"}})
    await kube.create(MAPS, namespace, {"metadata": {"name": "a"}})
    reflector = Reflector(kube, MAPS, take, lambda key: None, namespace=namespace, fields=FIELDS)
    task = asyncio.create_task(reflector.run())
    try:
        async with asyncio.timeout(30):
            await reflector.synced.wait()
            await kube.merge(MAPS, namespace, "odd", {"data": {"x": "1"}})
            await kube.create(MAPS, namespace, {"metadata": {"name": "b"}})
            await both.wait()
        assert f"ConfigMap {namespace}/odd was not taken in" in caplog.text
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_it_goes_on_after_the_api_server_was_away(
    control_plane: ControlPlane, kube: Client, namespace: str
) -> None:
    if control_plane.folder is None:
        pytest.skip("this cluster's API server isn't ours to stop")
    for name in ("kept", "lost"):
        await kube.create(MAPS, namespace, {"metadata": {"name": name}})
    async with reflecting(kube, MAPS, namespace) as copy:
        control_plane.kill_api_server()
        control_plane.start_api_server()
        await control_plane.answers(kube)
        # The watch is still waiting for its next try: it learns of this by comparing lists.
        await kube.delete(MAPS, namespace, "lost")
        await kube.create(MAPS, namespace, {"metadata": {"name": "new"}})
        await copy.until(lambda objects: set(objects) == {"kept", "new"})
