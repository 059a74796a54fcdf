"""What is decided about a request on its way: which pod gets it, what a failure means, whether it is sent again."""

from collections.abc import Collection, Sequence

from ams_gateway.registry.port import Backend

_MOST_SENDS = 3
_PAUSE_SECONDS = 0.05
_FAILURES_BEFORE_EJECTION = 3
_LONGEST_EJECTION_SECONDS = 60.0


class UpstreamError(Exception):
    """A pod didn't answer a request.

    `unsent`: the pod can't have seen the request. `nothing_ran`: it may be sent again. `reason` is a metric's label.

        UpstreamError
        ├ Unreachable        unsent, nothing ran
        ├ StaleConnection    nothing ran
        ├ Draining           nothing ran
        ├ NoResponse
        └ ResponseCut
    """

    unsent = False
    nothing_ran = False
    reason = "failed"


class Unreachable(UpstreamError):
    """No connection could be made."""

    unsent = nothing_ran = True
    reason = "unreachable"


class StaleConnection(UpstreamError):
    """A kept connection was closed under the request before a byte of the response came."""

    nothing_ran = True
    reason = "stale_connection"


class Draining(UpstreamError):
    """The pod is stopping and takes no new requests."""

    nothing_ran = True
    reason = "draining"


class NoResponse(UpstreamError):
    """A new connection ended, or brought no HTTP, before the response's head."""

    reason = "no_answer"


class ResponseCut(UpstreamError):
    """The connection ended before the response did."""

    reason = "answer_cut"


def choose_backend(backends: Sequence[Backend], tried: Collection[str], now: float, draw: float) -> Backend | None:
    """The pod with the fewest requests in flight, by chance (`draw` in [0, 1)) among equals. None if there is none.

    Pods tried before for this request, then pods left out for their failures, are taken only when no other is there:
    refusing the request would help nobody.
    """
    if len(backends) == 1:
        return backends[0]
    healthy = [backend for backend in backends if backend.ejected_until <= now]
    candidates = [backend for backend in healthy if backend.id not in tried] or healthy or backends
    if not candidates:
        return None
    fewest = min(backend.in_flight for backend in candidates)
    equals = [backend for backend in candidates if backend.in_flight == fewest]
    return equals[int(draw * len(equals))]


def may_send_again(failure: type[UpstreamError], sends: int, *, replayable: bool) -> bool:
    """Whether a request that was sent `sends` times may be sent once more. It must never run twice."""
    return sends < _MOST_SENDS and (failure.unsent or (failure.nothing_ran and replayable))


def pause_seconds(sends: int) -> float:
    """How long to wait before the same pod gets the request again."""
    return _PAUSE_SECONDS * 2.0 ** (sends - 1)


def ejection_seconds(failures: int) -> float:
    """How long a pod is left out after this many failures in a row: 1, 2, 4, … 60 seconds from the third on."""
    if failures < _FAILURES_BEFORE_EJECTION:
        return 0.0
    return min(2.0 ** min(failures - _FAILURES_BEFORE_EJECTION, 10), _LONGEST_EJECTION_SECONDS)
