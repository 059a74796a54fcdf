"""Whether a cluster has LeaderWorkerSets: what the API server says of them, and what the watch makes of it."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from ams_kube.client import Client
from ams_kube.errors import Forbidden, KubeError, NotFound, Unavailable
from ams_operator.decide.observed import Availability
from ams_operator.watch.cache import Cache
from ams_operator.watch.groups import GroupWatch

GROUP = "/apis/leaderworkerset.x-k8s.io/v1"
SETS = f"{GROUP}/leaderworkersets"
STATEFUL_SETS = "/apis/apps/v1/statefulsets"


class ApiServer:
    """Refuses what `refusals` has, by path."""

    def __init__(self, refusals: Mapping[str, KubeError]) -> None:
        self.refusals = dict(refusals)
        self.asked: list[str] = []

    async def request(self, method: str, path: str, query: Mapping[str, str] | None = None) -> bytes:
        self.asked.append(path)
        if (error := self.refusals.get(path)) is not None:
            raise error
        return b"{}"


@asynccontextmanager
async def watching(server: ApiServer, changes: list[Availability]) -> AsyncIterator[GroupWatch]:
    def changed() -> None:
        changes.append(watch.availability)

    watch = GroupWatch(cast(Client, server), Cache(lambda key, new: None), [None], changed)
    task = asyncio.create_task(watch.run())
    try:
        yield watch
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ams_operator.watch.groups._LOOK_SECONDS", 0.01)
    monkeypatch.setattr("ams_operator.watch.groups._UNAVAILABLE_SECONDS", 0.01)


@pytest.mark.parametrize(
    ("refusals", "availability"),
    [
        ({GROUP: NotFound("the server could not find the requested resource", status=404)}, "absent"),
        ({SETS: NotFound("the server could not find the requested resource", status=404)}, "absent"),
        ({SETS: Forbidden("leaderworkersets is forbidden", status=403)}, "forbidden"),
        ({STATEFUL_SETS: Forbidden("statefulsets is forbidden", status=403)}, "forbidden"),
    ],
)
async def test_a_cluster_without_them_is_known_at_once(
    refusals: dict[str, KubeError], availability: Availability
) -> None:
    server, changes = ApiServer(refusals), cast(list[Any], [])
    async with asyncio.timeout(5), watching(server, changes) as watch:
        await watch.known.wait()
        assert watch.availability == availability
        assert watch.freshness() == [], "nothing is watched that isn't there"
        asked = len(server.asked)
        while len(server.asked) < asked + 6:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert changes == ([] if availability == "absent" else [availability]), "told once"


async def test_an_api_server_that_is_away_says_nothing_of_them() -> None:
    server = ApiServer({GROUP: Unavailable("no answer")})
    async with asyncio.timeout(5), watching(server, []) as watch:
        while len(server.asked) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert not watch.known.is_set(), "an operator that has not seen them would refuse models that run"
        server.refusals = {GROUP: NotFound("", status=404)}
        await watch.known.wait()
        assert watch.availability == "absent"
