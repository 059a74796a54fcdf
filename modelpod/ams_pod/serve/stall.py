"""Notices an engine that hangs: requests are there, and for too long nothing was computed. Pure."""

from dataclasses import dataclass

from ams_pod.engines.port import EngineCounters, Occupancy


@dataclass(slots=True)
class StallWatch:
    """Compares what an engine has computed with what it had computed before. `patience_seconds` 0 watches nothing."""

    patience_seconds: float
    _done: float = -1.0
    _since: float = 0.0

    def stalled_seconds(self, occupancy: Occupancy, counters: EngineCounters, now: float) -> float | None:
        """For how long the engine has hung at `now` (monotonic seconds), past the patience; None while it doesn't."""
        done = counters.steps + counters.tower_calls + counters.prefill_tokens + counters.decode_tokens
        if done != self._done or not (occupancy.running or occupancy.waiting):
            self._done, self._since = done, now
        stalled = now - self._since
        return stalled if 0 < self.patience_seconds <= stalled else None
