"""Weighted fair queueing by key: whose turn it is, from what each key was given so far. Pure: no clock, no chance.

Each key has a virtual time: the seconds it was served, divided by its weight. Who is served next is the key whose
virtual time is least, so that keys which always want more are served in proportion to their weights (fair queueing by
start tags, Goyal et al., SIGCOMM 1996).

A request's key is at most `HEAD_START` seconds of its service behind the key that was served most, however long it was
away: absence earns no credit. That head start is what lets a question pass a book: a key that uses
less than its share has it at nearly every request, one that uses more never does. A key may be served `HEAD_START`
seconds more than its share for once, and not again until the others were.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ams_common.keys import DEFAULT_PRIORITY

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)

HEAD_START = 5.0
"""Seconds of service."""

MARGIN = 0.25
"""Seconds of service by which a key must be behind another one before anything of the other is put off for it."""

_MOST_KEYS = 4096


@dataclass(frozen=True, slots=True)
class Share:
    """Whose request it is, by an opaque id, and their weight among others. All who tell none share one key."""

    key: str = ""
    weight: int = DEFAULT_PRIORITY


EVERYBODY = Share()


@dataclass(slots=True)
class _Account:
    time: float
    weight: int

    def span(self, seconds: float) -> float:
        """So many seconds of service in virtual time; of a key with the default weight they are seconds."""
        return seconds * DEFAULT_PRIORITY / self.weight


class FairShares:
    """The virtual times of all keys that were served lately. One thread at a time."""

    def __init__(self) -> None:
        self._accounts: dict[str, _Account] = {}
        self._latest = 0.0  # virtual time at which the last service began, of the key that was furthest then

    def __len__(self) -> int:
        return len(self._accounts)

    def enter(self, share: Share) -> None:
        """A request of this key comes: it catches up with the others."""
        account = self._account(share)
        account.time = max(account.time, self._latest - account.span(HEAD_START))

    def charge(self, share: Share, seconds: float) -> None:
        """This key was served for so long."""
        account = self._account(share)
        self._latest = max(self._latest, account.time)
        account.time += account.span(seconds)

    def time(self, share: Share) -> float:
        """Its virtual time."""
        account = self._accounts.get(share.key)
        return account.time if account is not None else self._latest - HEAD_START * DEFAULT_PRIORITY / share.weight

    def behind(self, share: Share, other: Share) -> bool:
        """Whether this key was served so much less than the other that the other is to wait for it."""
        if share.key == other.key:
            return False
        return self.time(share) + MARGIN * DEFAULT_PRIORITY / share.weight < self.time(other)

    def by_key(self, items: Iterable[T], share_of: Callable[[T], Share]) -> list[tuple[Share, list[T]]]:
        """Items of each key, in the order given; the key whose turn it is first."""
        groups: dict[str, tuple[Share, list[T]]] = {}
        for item in items:
            share = share_of(item)
            groups.setdefault(share.key, (share, []))[1].append(item)
        if len(groups) == 1:
            return list(groups.values())
        return sorted(groups.values(), key=lambda group: self.time(group[0]))

    def in_order(self, items: Sequence[T], share_of: Callable[[T], Share]) -> list[T]:
        """Items of the key whose turn it is first, then those of the next."""
        return [item for _, group in self.by_key(items, share_of) for item in group]

    def _account(self, share: Share) -> _Account:
        account = self._accounts.get(share.key)
        if account is None:
            if len(self._accounts) >= _MOST_KEYS:
                self._forget()
            account = self._accounts[share.key] = _Account(self.time(share), share.weight)
        account.weight = share.weight
        return account

    def _forget(self) -> None:
        """Keys that would start again where they are; if all were served lately, the half that was served least."""
        kept = {
            key: account
            for key, account in self._accounts.items()
            if account.time > self._latest - account.span(HEAD_START)
        }
        if len(kept) >= _MOST_KEYS:
            most = sorted(kept.items(), key=lambda each: each[1].time, reverse=True)
            kept = dict(most[: _MOST_KEYS // 2])
        self._accounts = kept


def over_their_share(held: Mapping[Share, int], asking: Share, places: int) -> list[Share]:
    """Keys that hold more of `places` than is theirs, the furthest first, while `asking` holds less than is its own.

    Each key's share is at least one place. Nobody is over their share for a key that has all of its own.
    """
    shares = {share.key: share for share in (*held, asking)}
    weights = sum(share.weight for share in shares.values())
    counts: dict[str, int] = {}
    for share, count in held.items():
        counts[share.key] = counts.get(share.key, 0) + count

    def beyond(key: str) -> float:
        return counts.get(key, 0) - max(1.0, places * shares[key].weight / weights)

    if beyond(asking.key) > -1.0 and counts.get(asking.key, 0) > 0:
        return []
    over = [key for key in counts if key != asking.key and beyond(key) > 0]
    return [shares[key] for key in sorted(over, key=lambda key: counts[key] / shares[key].weight, reverse=True)]
