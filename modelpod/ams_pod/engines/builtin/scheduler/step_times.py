"""How long steps take that verify drafts, against plain ones, as the engine's own steps tell: a pure decision."""

import statistics
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

_SAMPLES = 9
_LEAST_PLAIN = 3  # plain steps that must have been measured
_STALE = 400  # steps: what wasn't measured for so long is no longer known
_PLAIN_EVERY = 64  # steps
_SLOPE = 0.04  # what a drafted token is taken to cost before any was measured


@dataclass(slots=True)
class _Cell:
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_SAMPLES))
    median: float = 0.0
    noted_at: int = 0


class StepTimes:
    """How long steps take of so many rows that verify so many drafted tokens. For rows of one kind."""

    def __init__(self) -> None:
        self._steps: dict[int, int] = {}  # of so many rows
        self._cells: dict[tuple[int, int], _Cell] = {}
        self._begun: set[tuple[int, int]] = set()

    def note(self, rows: int, drafted: int, seconds: float) -> None:
        self._steps[rows] = self._steps.get(rows, 0) + 1
        key = (rows, _width(drafted))
        if key not in self._begun:  # the first step of a width makes the kernels for it
            self._begun.add(key)
            return
        cell = self._cells.get(key)
        if cell is None or self._is_stale(rows, cell):
            cell = self._cells[key] = _Cell()
        cell.seconds.append(seconds)
        cell.median = statistics.median(cell.seconds)
        cell.noted_at = self._steps[rows]

    def of(self, rows: int) -> Callable[[int], float] | None:
        """The time of a step with so many drafted tokens, in plain steps; None while a plain one is to be measured."""
        plain = self._cells.get((rows, 0))
        if plain is None or len(plain.seconds) < _LEAST_PLAIN or plain.median <= 0.0:
            return None
        if self._steps[rows] - plain.noted_at >= _PLAIN_EVERY:
            return None
        widths, times = [0], [1.0]
        for width in sorted(width for of, width in self._cells if of == rows and width):
            cell = self._cells[rows, width]
            if not self._is_stale(rows, cell):
                widths.append(width)
                times.append(max(1.0, cell.median / plain.median))

        def time(drafted: int) -> float:
            at = bisect_left(widths, drafted)
            if at < len(widths):
                if widths[at] == drafted:
                    return times[at]
                part = (drafted - widths[at - 1]) / (widths[at] - widths[at - 1])
                return times[at - 1] + part * (times[at] - times[at - 1])
            slope = max(_SLOPE, (times[-1] - 1.0) / widths[-1]) if widths[-1] else _SLOPE
            return times[-1] + slope * (drafted - widths[-1])

        return time

    def _is_stale(self, rows: int, cell: _Cell) -> bool:
        return self._steps[rows] - cell.noted_at > _STALE


def _width(drafted: int) -> int:
    """Further ones are told apart by fours."""
    return drafted if drafted <= 8 else -(-drafted // 4) * 4
