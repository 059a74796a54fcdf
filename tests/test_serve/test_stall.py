"""A pod that computes nothing while requests wait says so on /health."""

import asyncio
from pathlib import Path

from ams_pod.engines.port import EngineCounters, Occupancy, Ticket
from ams_pod.serve.stall import StallWatch
from ams_pod.shares import EVERYBODY
from test_serve.test_engine_port import ShoutingEngine, serving

IDLE, BUSY, WAITING = Occupancy(), Occupancy(running=1), Occupancy(waiting=2)


def test_only_a_busy_engine_without_progress_stalls() -> None:
    watch, counters = StallWatch(10.0), EngineCounters()
    assert watch.stalled_seconds(IDLE, counters, 0.0) is None
    assert watch.stalled_seconds(IDLE, counters, 1000.0) is None
    assert watch.stalled_seconds(BUSY, counters, 1005.0) is None
    counters.steps += 1
    assert watch.stalled_seconds(BUSY, counters, 1009.0) is None
    assert watch.stalled_seconds(WAITING, counters, 1018.9) is None
    assert watch.stalled_seconds(WAITING, counters, 1019.0) == 10.0
    counters.tower_calls += 1
    assert watch.stalled_seconds(BUSY, counters, 1020.0) is None
    assert watch.stalled_seconds(BUSY, counters, 1031.0) == 11.0
    assert watch.stalled_seconds(IDLE, counters, 1032.0) is None


def test_no_patience_watches_nothing() -> None:
    watch, counters = StallWatch(0.0), EngineCounters()
    assert watch.stalled_seconds(BUSY, counters, 0.0) is None
    assert watch.stalled_seconds(BUSY, counters, 1e9) is None


class StuckEngine(ShoutingEngine):
    """Takes requests and never computes."""

    taken = 0

    def submit(self, prepared, sampling, sink, share=EVERYBODY, cache_salt=""):
        self.taken += 1
        return Ticket(prepared, sampling, sink, 0.0, share)

    def occupancy(self):
        return Occupancy(running=self.taken)


async def test_health_tells_of_a_stuck_engine(tmp_path: Path) -> None:
    async with serving(tmp_path, StuckEngine, stall_seconds=0.05) as client:
        assert (await client.status("/health"), await client.status("/ready")) == (200, 200)
        asking = asyncio.create_task(client.post("/generate", prompt="say hi"))
        async with asyncio.timeout(10):
            while await client.status("/health") == 200:  # it counts from the first look on
                pass
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
