"""How a pod fails a request, and what follows from it: whether the request is sent again, where the pod is left out."""

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
