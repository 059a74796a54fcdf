"""When reference cycles are collected where Python's own full collections don't happen."""

import asyncio
import gc
from collections.abc import Iterator

import pytest
from ams_common.collector import collect_rarely, hold_back_full_collections, is_due, leave_out_what_is_here

MB = 1 << 20


class World:
    """A clock that sleeping moves, memory that grows by `per_second`, and when it was collected fully."""

    def __init__(self, takes: float = 0.0, per_second: int = 0, *, freed: bool = False) -> None:
        self.now, self.held, self.collected = 0.0, 100 * MB, []
        self._takes, self._per_second, self._freed = takes, per_second, freed

    async def sleep(self, seconds: float) -> None:
        if self.now >= self._ends:
            self._over.set()
            await asyncio.Event().wait()
        self.now += seconds
        self.held += int(self._per_second * seconds)
        await asyncio.sleep(0)

    def collect(self) -> None:
        self.collected.append(self.now)
        self.now += self._takes
        if self._freed:
            self.held = 100 * MB

    async def run(self, monkeypatch: pytest.MonkeyPatch, seconds: float) -> list[float]:
        monkeypatch.setattr(gc, "collect", self.collect)
        self._ends, self._over = seconds, asyncio.Event()
        task = asyncio.create_task(collect_rarely(lambda: self.now, self.sleep, lambda: self.held))
        await self._over.wait()
        task.cancel()
        return self.collected


async def test_it_collects_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await World().run(monkeypatch, 200) == [60, 120, 180]


async def test_what_takes_long_comes_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one's time isn't known yet; each of the others is a two-thousandth of what lies before it."""
    assert await World(takes=0.1).run(monkeypatch, 500) == pytest.approx([60, 260.1, 461.2], abs=1.1)


async def test_memory_that_grows_is_looked_through_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(takes=0.1, per_second=40 * MB, freed=True)
    assert await world.run(monkeypatch, 10) == pytest.approx([4, 8.1], abs=0.2)


async def test_memory_that_is_needed_is_no_growth_the_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(takes=0.01)
    world.held -= 200 * MB
    started = World.sleep

    async def sleep(self: World, seconds: float) -> None:
        self.held = 300 * MB
        await started(self, seconds)

    monkeypatch.setattr(World, "sleep", sleep)
    assert await world.run(monkeypatch, 50) == [1]


def test_nothing_is_due_right_after_another() -> None:
    assert not is_due(59, 0.01, 0)
    assert is_due(60, 0.01, 0)
    assert not is_due(60, 0.1, 127 * MB)
    assert is_due(1, 0.1, 128 * MB)


@pytest.fixture
def own_collector() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()


def test_what_is_there_is_left_out_of_collections(own_collector: None) -> None:
    leave_out_what_is_here()
    assert gc.get_freeze_count() > 10_000
    assert len(gc.get_objects()) < 1_000


def test_full_collections_are_held_back(own_collector: None) -> None:
    young, middle, _ = gc.get_threshold()
    hold_back_full_collections()
    before = gc.get_stats()
    kept = [[] for _ in range(300_000)]
    after = gc.get_stats()
    assert gc.get_threshold()[:2] == (young, middle)
    assert after[0]["collections"] > before[0]["collections"]
    assert after[2]["collections"] == before[2]["collections"], len(kept)
