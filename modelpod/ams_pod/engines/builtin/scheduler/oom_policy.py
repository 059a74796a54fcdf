"""What happened to requests that memory ran out for: decided by the ladder, counted, and logged once."""

import logging
import time
from dataclasses import dataclass
from typing import Protocol

from ams_common.quantity import format_bytes

from ams_pod.engines.builtin.memory import device_memory
from ams_pod.engines.builtin.scheduler.ladder import OomSituation, Rung, Stage, next_rung
from ams_pod.engines.builtin.scheduler.row import Row
from ams_pod.engines.port import Degraded, EngineCounters, EngineRefusal, Ticket

_STAGES: dict[Stage, str] = {
    "tower": "its media were encoded",
    "prefill": "its prompt was read",
    "decode": "its answer was computed",
}

log = logging.getLogger(__name__)


class CpuFallback(Protocol):
    """Another place that can compute requests: a copy of the model on the CPU. `compute_seconds` is what they took."""

    compute_seconds: float

    def fits(self) -> bool:
        """Whether there is memory for it."""

    def take(self, row: Row) -> None:
        """Compute the rest of a request; its events are published from there."""

    def stop(self) -> None: ...


@dataclass(frozen=True, slots=True)
class OomFallbacks:
    """What may be done when memory runs out on `device`: each of `order` in turn; `cpu` takes requests over."""

    order: tuple[Degraded, ...] = ()
    device: str = "cpu"
    cpu: CpuFallback | None = None


class OomPolicy:
    """The ladder of one engine. For the compute thread."""

    def __init__(self, fallbacks: OomFallbacks, counters: EngineCounters) -> None:
        self.fallbacks = fallbacks
        self._counters = counters

    def step_down(self, ticket: Ticket, stage: Stage, *, others: bool = False, streamed: bool = False) -> Rung:
        """The next rung for this request; its ticket then tells how its answer is degraded."""
        cpu = self.fallbacks.cpu
        situation = OomSituation(
            others=others,
            streamed=streamed,
            text=ticket.prepared.text_only is not None,
            cpu=cpu is not None and cpu.fits(),
            tried=frozenset(ticket.rungs),
        )
        rung = next_rung(self.fallbacks.order, situation)
        key = (stage, rung)
        self._counters.out_of_memory[key] = self._counters.out_of_memory.get(key, 0) + 1
        if ticket.first_rung_at is None:
            ticket.first_rung_at = time.monotonic()
        if rung not in ticket.rungs:
            ticket.rungs = (*ticket.rungs, rung)
            log.warning("memory ran out while a request's %s: %s", _STAGES[stage].removeprefix("its "), rung)
        if rung == "cpu" or rung == "text-only" or rung == "simplified":
            ticket.degraded = rung
        return rung

    def refusal(self, ticket: Ticket, stage: Stage, bytes_per_token: int) -> EngineRefusal:
        """Why the request ends, with its numbers."""
        tokens = len(ticket.prepared.ids)
        free = device_memory.free_bytes(self.fallbacks.device, {})
        cache = f", {format_bytes(tokens * bytes_per_token)} of cache" if bytes_per_token else ""
        return EngineRefusal(
            "out-of-memory",
            f"Memory ran out while {_STAGES[stage]}, with nothing else running: its prompt has {tokens} tokens{cache}; "
            f"{format_bytes(free)} of {'memory' if self.fallbacks.device == 'cpu' else 'the GPU'} are free.",
        )
