"""How long to wait before the next try."""

from collections.abc import Callable


def wait_seconds(tries: int, draw: Callable[[], float], *, first: float, longest: float) -> float:
    """Doubling from `first` to `longest`, spread over its upper half by `draw` in [0, 1). `tries` counts failures."""
    whole = min(first * 2.0 ** min(tries - 1, 32), longest)
    return whole * (0.5 + draw() / 2)
