"""Python's collector of reference cycles, kept away from what stays: a pause of it is a pause of every request.

By itself Python collects fully whenever a quarter more objects have come that aren't young any more, whatever became of
those before; and since it counts objects that come less those that go, what it takes for young ones may be all there
are where requests begin as fast as others end. A server has both all the time: a thousand streams are 200,000 objects,
gone through in 80 ms. What requests leave is freed without the collector; it is needed for the few cycles that errors
make, and for that once in minutes is enough.
"""

import gc
from collections.abc import Awaitable, Callable

_NEVER = 1 << 30
_LOOK_SECONDS = 1.0
_LEAST_SECONDS = 60.0
_MOST_PART = 1 / 2000  # of the time, in full collections
_MUCH_BYTES = 128 << 20


def hold_back_full_collections() -> None:
    """From here on only young objects are collected by themselves: in this process and in those that it forks."""
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, _NEVER)


def leave_out_what_is_here() -> None:
    """Whatever the process holds by now is never looked at again; call it once everything is imported and started.

    A full collection goes through all that was imported, a hundred thousand objects and more, for 50 ms and more.
    """
    gc.collect()
    gc.freeze()


async def collect_rarely(
    now: Callable[[], float], sleep: Callable[[float], Awaitable[object]], resident_bytes: Callable[[], int]
) -> None:
    """Full collections as `is_due` says, in place of Python's own, which whoever calls keeps from happening; until
    cancelled.

    `now` is a clock that never goes back, in seconds; `resident_bytes` what this process holds, 0 if nobody knows.
    """
    took, ended, held = 0.0, now(), resident_bytes()
    while True:
        await sleep(_LOOK_SECONDS)
        if is_due(now() - ended, took, resident_bytes() - held):
            began = now()
            gc.collect()
            ended, held = now(), resident_bytes()
            took = ended - began


def is_due(since: float, took: float, grown: int) -> bool:
    """Whether to collect fully: `since` seconds after the last time, which took so long, and so many bytes more.

    One that takes long comes seldom, so that it costs next to nothing of the time. Where memory has grown it comes at
    once: either cycles are freed, or what has grown is needed and isn't taken for growth the next time.
    """
    return grown >= _MUCH_BYTES or since >= max(_LEAST_SECONDS, took / _MOST_PART)
