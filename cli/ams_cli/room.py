"""Which models stop when another one needs their memory. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

_MARGIN_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Holder:
    """A running model: what it holds, when it was last used, and whether it may stop now."""

    name: str
    resident_bytes: int
    last_used: float
    may_stop: bool


def who_stops(needed: int, available: int, holders: Sequence[Holder]) -> list[str]:
    """Names of idle models, least recently used first, until `needed` bytes fit; none where that can't help."""
    missing = needed + _MARGIN_BYTES - available
    chosen: list[str] = []
    for holder in sorted((each for each in holders if each.may_stop), key=lambda each: each.last_used):
        if missing <= 0:
            break
        chosen.append(holder.name)
        missing -= holder.resident_bytes
    return chosen if missing <= 0 else []
