"""Which models stop when another one needs their memory. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

MARGIN_BYTES = 256 << 20  # of the machine's memory, for everything else


@dataclass(frozen=True, slots=True)
class RunningModel:
    """A running model: what it holds of memory, what it was started with in mind, and when it was last used.

    It may stop when it is `idle` and runs only `on_demand`.
    """

    name: str
    held_bytes: int
    promised_bytes: int
    last_used: float
    idle: bool = True
    on_demand: bool = True

    @property
    def bytes(self) -> int:
        return max(self.held_bytes, self.promised_bytes)


@dataclass(frozen=True, slots=True)
class Eviction:
    """What a model that starts gets: `needed` bytes, once the models in `victims` have stopped.

    `short`: there is no room. `wait`: there will be when models that are in use now have become idle.
    """

    needed: int
    victims: tuple[str, ...] = ()
    short: bool = False
    wait: bool = False


def unclaimed_bytes(available: int | None, limit: int | None, holders: Sequence[RunningModel]) -> int | None:
    """What a further model may take of the `available` bytes and of the `limit` for all models; None: nobody knows.

    What running models were promised and haven't taken yet isn't free.
    """
    bounds = []
    if available is not None:
        bounds.append(available - MARGIN_BYTES - sum(each.bytes - each.held_bytes for each in holders))
    if limit is not None:
        bounds.append(limit - sum(each.bytes for each in holders))
    return min(bounds, default=None)


def plan_eviction(needs: Sequence[int], free: int, holders: Sequence[RunningModel]) -> Eviction:
    """Which idle models stop, least recently used first, so that the first of `needs` fits for which that is enough."""
    for needed in needs:
        victims = choose_victims(needed, free, holders)
        if victims is not None:
            return Eviction(needed, tuple(victims))
    if_idle = [replace(holder, idle=True) for holder in holders]
    wait = any(choose_victims(needed, free, if_idle) is not None for needed in needs)
    return Eviction(needs[-1], short=True, wait=wait)


def choose_victims(needed: int, free: int, holders: Sequence[RunningModel]) -> list[str] | None:
    """Names of idle models, least recently used first, until `needed` bytes fit; None where that can't help."""
    missing = needed - free
    chosen: list[str] = []
    for holder in sorted((each for each in holders if each.idle and each.on_demand), key=lambda each: each.last_used):
        if missing <= 0:
            break
        chosen.append(holder.name)
        missing -= holder.bytes
    return chosen if missing <= 0 else None
