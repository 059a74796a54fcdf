"""Threads that keys share: nobody waits for all that another key has queued."""

import asyncio
import threading

import pytest
from ams_pod.media.budget import ByteBudget
from ams_pod.media.fair_pool import FairPool
from ams_pod.shares import Share

BUSY, CHAT = Share("busy"), Share("chat")


@pytest.fixture
def order() -> list[str]:
    return []


async def held(pool: FairPool, order: list[str], *jobs: tuple[str, Share]) -> None:
    """Run the jobs; the first keeps its thread until all others are asked for."""
    going = threading.Event()

    def work(name: str) -> None:
        going.wait(5)
        order.append(name)

    tasks = [asyncio.create_task(pool.run(work, name, share=share)) for name, share in jobs]
    await asyncio.sleep(0.05)
    going.set()
    await asyncio.gather(*tasks)


async def test_another_keys_job_comes_before_the_rest_of_a_long_queue(order: list[str]) -> None:
    pool = FairPool(1, "test")
    await held(pool, order, *((f"b{number}", BUSY) for number in range(20)), ("c0", CHAT))
    assert order.index("c0") <= 1
    assert [name for name in order if name != "c0"] == [f"b{number}" for number in range(20)]
    pool.close()


async def test_a_spare_thread_is_for_a_key_of_which_nothing_runs(order: list[str]) -> None:
    pool = FairPool(1, "test", spare=1)
    blocked = threading.Event()
    long = asyncio.create_task(pool.run(blocked.wait, 5, share=BUSY))
    more = asyncio.create_task(pool.run(order.append, "busy", share=BUSY))
    await asyncio.sleep(0.02)
    await pool.run(order.append, "chat", share=CHAT)
    assert order == ["chat"]
    blocked.set()
    await asyncio.gather(long, more)
    assert order == ["chat", "busy"]
    pool.close()


async def test_who_leaves_gives_its_turn_to_the_next(order: list[str]) -> None:
    pool = FairPool(1, "test")
    blocked = threading.Event()
    first = asyncio.create_task(pool.run(blocked.wait, 5, share=BUSY))
    await asyncio.sleep(0.02)
    gone = asyncio.create_task(pool.run(order.append, "gone", share=BUSY))
    stays = asyncio.create_task(pool.run(order.append, "stays", share=BUSY))
    await asyncio.sleep(0.02)
    gone.cancel()
    blocked.set()
    await asyncio.gather(first, stays)
    assert order == ["stays"]
    assert not pool._waiting
    assert not pool._running
    pool.close()


async def test_memory_for_media_goes_first_to_who_holds_least() -> None:
    budget, order = ByteBudget(100), []
    release = asyncio.Event()

    async def take(name: str, size: int, share: Share) -> None:
        async with budget.reserved(size, share):
            order.append(name)
            await release.wait()

    tasks = [asyncio.create_task(take("b0", 80, BUSY))]
    await asyncio.sleep(0)
    tasks += [asyncio.create_task(take(f"b{number}", 80, BUSY)) for number in (1, 2)]
    await asyncio.sleep(0)
    tasks.append(asyncio.create_task(take("c0", 20, CHAT)))
    await asyncio.sleep(0.01)
    assert order == ["b0", "c0"]
    release.set()
    await asyncio.gather(*tasks)
    assert (order, budget.used) == (["b0", "c0", "b1", "b2"], 0)


async def test_who_leaves_just_when_a_turn_comes_takes_nothing_with_it(order: list[str]) -> None:
    """Cancelled, but not yet gone: its future is done, and it still stands in the queue."""
    pool = FairPool(1, "test")
    async with pool.turn(BUSY):
        gone = asyncio.create_task(pool.run(order.append, "gone", share=BUSY))
        await asyncio.sleep(0.01)
        gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    await asyncio.wait_for(pool.run(order.append, "next", share=BUSY), 5)
    assert order == ["next"]
    assert not pool._running
    pool.close()


async def test_memory_too_is_not_given_to_who_leaves() -> None:
    budget = ByteBudget(10)

    async def take() -> None:
        async with budget.reserved(10, BUSY):
            pass

    async with budget.reserved(10, BUSY):
        gone = asyncio.create_task(take())
        await asyncio.sleep(0.01)
        gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    await asyncio.wait_for(take(), 5)
    assert budget.used == 0
