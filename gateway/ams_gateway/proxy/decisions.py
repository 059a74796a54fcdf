"""What is decided about a request on its way: which pod gets it, what a failure means, whether it is sent again."""

import math
from collections.abc import Callable, Collection, Sequence

from ams_gateway.proxy.affinity import weight
from ams_gateway.registry.port import Backend

_MOST_SENDS = 5
_MOST_ENDS = 2
_PAUSE_SECONDS = 0.05
_FAILURES_BEFORE_EJECTION = 3
_LONGEST_EJECTION_SECONDS = 60.0
_MOST_OF_THE_MEAN = 1.25  # requests in flight at a pod that a conversation still goes to


class UpstreamError(Exception):
    """A pod didn't answer a request.

    `unsent`: the pod can't have seen the request. `unanswered`: no byte of an answer came, so that another pod may be
    asked. `ended`: the pod may have ended over the request. `reason` is a metric's label.

        UpstreamError
        ├ Unreachable        unsent, unanswered
        ├ StaleConnection    unanswered, ended
        ├ Draining           unanswered
        ├ Busy               unanswered
        ├ NotLoaded          unanswered
        ├ PodEnded           unanswered, ended
        ├ NoHttp
        └ ResponseCut
    """

    unsent = False
    unanswered = False
    ended = False
    reason = "failed"


class Unreachable(UpstreamError):
    """No connection could be made."""

    unsent = unanswered = True
    reason = "unreachable"


class StaleConnection(UpstreamError):
    """A kept connection was closed under the request before a byte of the response came."""

    unanswered = ended = True
    reason = "stale_connection"


class Draining(UpstreamError):
    """The pod is stopping and takes no new requests."""

    unanswered = True
    reason = "draining"


class Busy(UpstreamError):
    """The pod's queue is full, of requests that waited for it together with this one."""

    unanswered = True
    reason = "busy"


class NotLoaded(UpstreamError):
    """The pod hasn't loaded what is asked for, as an adapter that only newer pods of the model have."""

    unanswered = True
    reason = "not_loaded"


class PodEnded(UpstreamError):
    """The connection ended before the response's head, as it does when a pod's process is killed."""

    unanswered = ended = True
    reason = "no_answer"


class NoHttp(UpstreamError):
    """What came is no HTTP."""

    reason = "no_http"


class ResponseCut(UpstreamError):
    """The connection ended before the response did."""

    reason = "answer_cut"


def choose_backend(
    backends: Sequence[Backend],
    tried: Collection[str],
    now: float,
    draw: float,
    affinity: Callable[[], int | None] = lambda: None,
) -> Backend | None:
    """The pod that the request's conversation belongs to, unless it has too much to do; else the one with the fewest
    requests in flight, by chance (`draw` in [0, 1)) among equals. None if there is none.

    Too much is more than a quarter above the mean: then the next pod in the conversation's own order is looked at
    (consistent hashing with bounded loads, arXiv 1608.01350). Pods tried before for this request, then pods left out
    for their failures, are taken only when no other is there: refusing the request would help nobody.
    """
    if len(backends) == 1:
        return backends[0]
    healthy = [backend for backend in backends if backend.ejected_until <= now]
    candidates = [backend for backend in healthy if backend.id not in tried] or healthy or backends
    if not candidates:
        return None
    if len(candidates) > 1 and (conversation := affinity()) is not None:
        bound = math.ceil(_MOST_OF_THE_MEAN * (1 + sum(each.in_flight for each in candidates)) / len(candidates))
        allowed = [backend for backend in candidates if backend.in_flight < bound]
        return max(allowed, key=lambda backend: weight(conversation, backend.id))
    fewest = min(backend.in_flight for backend in candidates)
    equals = [backend for backend in candidates if backend.in_flight == fewest]
    return equals[int(draw * len(equals))]


def may_send_again(failure: type[UpstreamError], sends: int, ends: int, *, replayable: bool) -> bool:
    """Whether a request that was sent `sends` times since it last waited for the model may be sent once more.

    Of an answer that has begun the client would see two halves. `ends` is how many pods ended over the request, this
    one included: answering changes nothing in a pod, so that it may be tried once more, but what two pods ended over
    may be what ended them.
    """
    again = failure.unsent or (failure.unanswered and replayable)
    return again and sends < _MOST_SENDS and ends < _MOST_ENDS


def pause_seconds(sends: int) -> float:
    """How long to wait before the same pod gets the request again."""
    return _PAUSE_SECONDS * 2.0 ** (sends - 1)


def busy_pause_seconds(refusals: int) -> float:
    """How long a request that was held waits for a place in the pod's queue: 0.1, 0.2, 0.4 and then 0.5 seconds."""
    return min(0.1 * 2.0 ** min(refusals - 1, 8), 0.5)


def ejection_seconds(failures: int) -> float:
    """How long a pod is left out after this many failures in a row: 1, 2, 4, … 60 seconds from the third on."""
    if failures < _FAILURES_BEFORE_EJECTION:
        return 0.0
    return min(2.0 ** min(failures - _FAILURES_BEFORE_EJECTION, 10), _LONGEST_EJECTION_SECONDS)
