"""What one request uses, through all that is computed for it, and whether its gateway heard of it."""

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec
from ams_common.keys import DEFAULT_PRIORITY
from ams_common.names import HEADER_KEY_ID, HEADER_WEIGHT
from ams_common.request_usage import RequestUsage
from ams_common.undelivered import MOST_AT_ONCE, UndeliveredUsage, UndeliveredUsages, undelivered

from ams_pod.serve.tracks import RequestTrack
from ams_pod.shares import EVERYBODY, Share
from ams_pod.waits import Waits

_LONGEST_ID = 128
_MOST_WEIGHT = 1000
_MOST_KEPT = 10_000


def share_of(headers: Mapping[str, str]) -> Share:
    """Whose request it is, as the gateway says; what makes no sense counts as not said."""
    key, weight = headers.get(HEADER_KEY_ID, ""), headers.get(HEADER_WEIGHT, "")
    if not (key.isascii() and key.isprintable() and " " not in key and len(key) <= _LONGEST_ID):
        key = ""
    known = weight.isascii() and weight.isdigit() and len(weight) <= 4 and 1 <= int(weight) <= _MOST_WEIGHT
    if not key and not known:
        return EVERYBODY
    return Share(key, int(weight) if known else DEFAULT_PRIORITY)


class Undelivered:
    """Usage that no gateway heard, until one asks; the oldest go when there is too much of it."""

    def __init__(self, most: int = _MOST_KEPT) -> None:
        self.dropped = 0
        self.asked = False  # whether somebody collects it at all
        self._most = most
        self._kept: deque[UndeliveredUsage] = deque()

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, entry: UndeliveredUsage) -> None:
        if len(self._kept) >= self._most:
            self._kept.popleft()
            self.dropped += 1
        self._kept.append(entry)

    def take(self) -> UndeliveredUsages:
        """The oldest, which are forgotten."""
        self.asked = True
        taken = tuple(self._kept.popleft() for _ in range(min(MOST_AT_ONCE, len(self._kept))))
        return UndeliveredUsages(usage=taken, more=bool(self._kept), dropped=self.dropped)

    def put_back(self, taken: UndeliveredUsages) -> None:
        """They didn't reach who asked."""
        for entry in reversed(taken.usage):
            if len(self._kept) >= self._most:
                self.dropped += 1
            else:
                self._kept.appendleft(entry)


class Metered(Protocol):
    """A generation: what it used, complete once `ended`, and whether anything was computed for it."""

    @property
    def used(self) -> RequestUsage: ...
    @property
    def ended(self) -> bool: ...
    @property
    def started(self) -> bool: ...


class RequestMeter:
    """Of one request. `leave` makes it end with `queue_full`, for another key's; it may be called while `movable`."""

    def __init__(
        self, request_id: str, share: Share, undelivered: Undelivered, track: RequestTrack | None = None
    ) -> None:
        self.request_id, self.share, self.track = request_id, share, track
        self.began = time.monotonic()
        self.waits = Waits(self.began)
        self.leave: Callable[[], None] | None = None
        self.displaced = False
        self._undelivered = undelivered
        self._generations: list[Metered] = []
        self._told: RequestUsage | None = None
        self._delivered: RequestUsage | None = None
        self._closed = False

    def add(self, generation: Metered) -> None:
        self._generations.append(generation)

    @property
    def has_generations(self) -> bool:
        return bool(self._generations)

    @property
    def movable(self) -> bool:
        """Nothing of its prompt was read yet."""
        return self.leave is not None and not self.displaced and not any(each.started for each in self._generations)

    @property
    def usage(self) -> RequestUsage:
        """So far; what waits to be computed counts as nothing."""
        used = [each.used for each in self._generations if each.started]
        return RequestUsage(
            prompt_tokens=sum(each.prompt_tokens for each in used),
            completion_tokens=sum(each.completion_tokens for each in used),
            cached_tokens=sum(each.cached_tokens for each in used),
            media=sum(each.media for each in used),
            compute_seconds=sum(each.compute_seconds for each in used),
        )

    def tell(self) -> RequestUsage | None:
        """What the answer is to say; None if nothing was used."""
        self._told = self.usage
        return self._told if self._told != RequestUsage() else None

    def delivered(self) -> None:
        """The answer with what was told last is with the gateway."""
        self._delivered = self._told

    def close(self) -> None:
        """The request ended. What the engine still computes of it is waited for."""
        self._closed = True
        self.settle()

    def settle(self) -> None:
        """Once all has ended, keep what nobody heard of. Called at the end of each generation's ticket."""
        if not self._closed or not all(each.ended for each in self._generations):
            return
        usage, heard = self.usage, self._delivered
        self._generations, self._delivered = [], None
        rest = heard is not None
        if heard is not None:
            usage = msgspec.structs.replace(
                RequestUsage(), compute_seconds=max(0.0, usage.compute_seconds - heard.compute_seconds)
            )
        if usage != RequestUsage() and (not rest or usage.compute_seconds > 1e-6):
            entry = undelivered(self.request_id, self.share.key, usage, int(time.time()), rest=rest)
            self._undelivered.keep(entry)
