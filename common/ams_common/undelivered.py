"""Usage that no gateway heard: a pod keeps what requests used whose end didn't reach one, and gives it away once.

`POST /internal/usage` of a pod answers an `UndeliveredUsages` and forgets what is in it. A gateway may read it from
pods of other makes, so every field is bounded.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from ams_common.printable import printable
from ams_common.request_usage import RequestUsage

USAGE_PATH = "/internal/usage"
MOST_AT_ONCE = 1000
MOST_BYTES = 1 << 20  # of one answer

Id = Annotated[str, Meta(max_length=128)]
Tokens = Annotated[int, Meta(ge=0, le=10**12)]
Pieces = Annotated[int, Meta(ge=0, le=10**9)]
Seconds = Annotated[float, Meta(ge=0, le=1e9)]


class UndeliveredUsage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one request used, and whose it was: `key_id` is what the gateway sent as X-AMS-Key-Id, "" if nothing.

    `ended` is Unix time in seconds. `rest`: the answer's own usage was heard, and this was used beyond it, so it is no
    further request: an engine lets go of a request that is stopped only at the end of its step.
    """

    request_id: Id
    key_id: Id = ""
    prompt_tokens: Tokens = 0
    completion_tokens: Tokens = 0
    cached_tokens: Tokens = 0
    media: Pieces = 0
    compute_seconds: Seconds = 0.0
    ended: Annotated[int, Meta(ge=0, le=10**11)] = 0
    rest: bool = False

    @property
    def usage(self) -> RequestUsage:
        return RequestUsage(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            cached_tokens=self.cached_tokens,
            media=self.media,
            compute_seconds=self.compute_seconds,
        )


class UndeliveredUsages(msgspec.Struct, frozen=True, kw_only=True):
    """The oldest first. `more`: there are others, so ask again at once. `dropped` were too many to be kept, in all."""

    usage: Annotated[tuple[UndeliveredUsage, ...], Meta(max_length=MOST_AT_ONCE)] = ()
    more: bool = False
    dropped: Annotated[int, Meta(ge=0, le=10**15)] = 0


def undelivered(
    request_id: str, key_id: str, usage: RequestUsage, ended: int, *, rest: bool = False
) -> UndeliveredUsage:
    """An entry, within its bounds."""
    return UndeliveredUsage(
        request_id=printable(request_id, 128),
        key_id=printable(key_id, 128),
        prompt_tokens=min(usage.prompt_tokens, 10**12),
        completion_tokens=min(usage.completion_tokens, 10**12),
        cached_tokens=min(usage.cached_tokens, 10**12),
        media=min(usage.media, 10**9),
        compute_seconds=round(min(max(usage.compute_seconds, 0.0), 1e9), 6),
        ended=max(0, ended),
        rest=rest,
    )
