"""Each key serially, many side by side, the urgent first, the failing later."""

import asyncio
from collections import defaultdict

from ams_operator.watch.workqueue import WorkQueue


class Work:
    """Each turn waits until it is let go."""

    def __init__(self, at_once: int = 2) -> None:
        self.turns: list[str] = []
        self.running: set[str] = set()
        self.most = 0
        self.results: dict[str, list[object]] = defaultdict(list)
        self.let_go = asyncio.Event()
        self.let_go.set()
        self.changed = asyncio.Event()
        self.queue = WorkQueue(at_once=at_once)

    async def __call__(self, key: str) -> float | None:
        assert key not in self.running, "one turn of a key at a time"
        self.running.add(key)
        self.most = max(self.most, len(self.running))
        self.turns.append(key)
        self.changed.set()
        await self.let_go.wait()
        self.running.discard(key)
        result = self.results[key].pop(0) if self.results[key] else None
        if isinstance(result, Exception):
            raise result
        assert result is None or isinstance(result, float)
        return result

    async def until_turns(self, count: int) -> None:
        async with asyncio.timeout(30):
            while len(self.turns) < count or self.running:
                self.changed.clear()
                if len(self.turns) < count:
                    await self.changed.wait()
                else:
                    await asyncio.sleep(0)


async def test_nothing_begins_before_the_start_and_keys_are_kept_once() -> None:
    work = Work()
    for key in "aabab":
        work.queue.add(key)
    await asyncio.sleep(0)
    assert work.turns == []
    assert work.queue.depth == 2
    work.queue.start(work)
    await work.until_turns(2)
    assert work.turns == ["a", "b"]
    await work.queue.stop(1)


async def test_a_key_that_changes_while_it_is_worked_on_gets_one_more_turn() -> None:
    work = Work()
    work.queue.start(work)
    work.let_go.clear()
    work.queue.add("a")
    await asyncio.sleep(0)
    for _ in range(3):
        work.queue.add("a")
    work.let_go.set()
    await work.until_turns(2)
    assert work.turns == ["a", "a"]
    await work.queue.stop(1)


async def test_so_many_at_once_and_the_urgent_first() -> None:
    work = Work(at_once=2)
    work.queue.start(work)
    work.let_go.clear()
    for key in "abcde":
        work.queue.add(key)
    work.queue.add("e", first=True)
    work.queue.add("f", first=True)
    await asyncio.sleep(0)
    work.let_go.set()
    await work.until_turns(6)
    assert work.turns == ["a", "b", "e", "f", "c", "d"]
    assert work.most == 2
    await work.queue.stop(1)


async def test_a_turn_may_ask_for_another_one_later() -> None:
    work = Work()
    work.results["a"] = [0.01, None]
    work.queue.start(work)
    work.queue.add("a")
    await work.until_turns(2)
    await work.queue.stop(1)


async def test_a_failing_key_is_tried_again_and_holds_up_no_other() -> None:
    work = Work(at_once=1)
    work.results["bad"] = [ValueError("boom"), ValueError("boom"), None]
    work.queue.start(work)
    work.queue.add("bad")
    work.queue.add("good")
    await work.until_turns(2)
    assert work.turns == ["bad", "good"]
    await work.until_turns(4)
    assert work.turns == ["bad", "good", "bad", "bad"]
    await work.queue.stop(1)


async def test_stopping_lets_what_runs_end_and_begins_nothing() -> None:
    work = Work()
    work.queue.start(work)
    work.let_go.clear()
    for key in "abc":
        work.queue.add(key)
    await asyncio.sleep(0)
    stopping = asyncio.create_task(work.queue.stop(10))
    await asyncio.sleep(0)
    work.queue.add("d")
    work.let_go.set()
    await stopping
    assert sorted(work.turns) == ["a", "b"]
    assert work.running == set()
