"""A deadline ends what takes too long, and takes nobody else's cancelling for its own."""

import asyncio

import pytest
from ams_gateway.proxy.deadline import Deadline


async def test_what_takes_too_long_is_ended_once() -> None:
    with pytest.raises(TimeoutError), Deadline(0.01):
        await asyncio.sleep(10)
    await asyncio.sleep(0)  # nothing is left of the cancelling
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_what_ends_in_time_goes_on() -> None:
    with Deadline(0.02):
        await asyncio.sleep(0)
    await asyncio.sleep(0.05)


async def test_an_error_of_the_block_stays_its_own() -> None:
    with pytest.raises(ValueError, match="own"), Deadline(10):
        raise ValueError("own")


async def test_a_task_that_is_cancelled_is_no_timeout() -> None:
    async def work() -> None:
        with Deadline(10):
            await asyncio.sleep(10)

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_task_that_is_cancelled_at_its_deadline_is_cancelled() -> None:
    async def work() -> None:
        with Deadline(0.01):
            await asyncio.sleep(10)

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_later(0.01, task.cancel)
    with pytest.raises((asyncio.CancelledError, TimeoutError)):
        await task
    assert task.cancelled() or isinstance(task.exception(), TimeoutError)


async def test_deadlines_may_lie_in_each_other() -> None:
    with pytest.raises(TimeoutError), Deadline(10), Deadline(0.01):
        await asyncio.sleep(10)
    with pytest.raises(TimeoutError), Deadline(0.01), Deadline(10):
        await asyncio.sleep(10)
