"""A Prometheus histogram as plain numbers: counting costs a search in a short list; who is scraped makes series of it.

`labels().observe()` of the client library costs more than all else that is accounted for a request.
"""

from bisect import bisect_left
from collections.abc import Sequence


class Histogram:
    """Counts by upper bound; for one thread. `bounds` ascend, and have the unit of what is observed."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        return sum(self.counts)

    def buckets(self) -> list[tuple[str, float]]:
        """Upper bounds as Prometheus writes them, and how many were at most that."""
        total = 0
        result: list[tuple[str, float]] = []
        for bound, count in zip((*self._bounds, None), self.counts, strict=True):
            total += count
            result.append(("+Inf" if bound is None else str(float(bound)), total))
        return result
