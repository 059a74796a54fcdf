"""How full a gateway is: each thing that it has only so much of, beside its limit, and how late its event loop is."""

from collections.abc import Callable, Iterator

from ams_common.room import Room
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ams_gateway.front.lateness import LoopLateness

_LAG_SECONDS = 30.0  # as long as most scrapes are apart


class Saturation(Collector):
    """Read at each scrape. `clients` gives the connections that are open, and how many may be."""

    def __init__(self, room: Room, lateness: LoopLateness) -> None:
        self.clients: Callable[[], tuple[int, int]] | None = None
        self._room = room
        self._lateness = lateness

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "ams_gateway_loop_lag_seconds",
            "By how much the event loop was late at worst in the last 30 seconds.",
            value=self._lateness.worst(_LAG_SECONDS),
        )
        room = self._room
        used: list[tuple[str, int, int]] = [
            ("body-memory", room.in_memory, room.memory_bytes),
            ("spool", room.in_files, room.file_bytes),
        ]
        if self.clients is not None:
            used.append(("clients", *self.clients()))
        saturation = GaugeMetricFamily(
            "ams_gateway_saturation_ratio",
            "Part that is taken of what there is only so much of: connections, memory and files for unfinished bodies.",
            labels=("resource",),
        )
        limits = GaugeMetricFamily(
            "ams_gateway_saturation_limit", "How much there is of it: connections, or bytes.", labels=("resource",)
        )
        for resource, count, limit in used:
            saturation.add_metric((resource,), count / limit if limit else 0.0)
            limits.add_metric((resource,), limit)
        yield from (saturation, limits)
