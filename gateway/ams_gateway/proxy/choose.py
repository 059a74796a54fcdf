"""Which pod gets a request, and how long a failing pod is left out. Pure: time and chance come in as arguments."""

from collections.abc import Collection, Sequence

from ams_gateway.registry.port import Backend

_FAILURES_BEFORE_EJECTION = 3
_LONGEST_EJECTION_SECONDS = 60.0


def choose(backends: Sequence[Backend], tried: Collection[str], now: float, draw: float) -> Backend | None:
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


def ejection_seconds(failures: int) -> float:
    """How long a pod is left out after this many failures in a row: 1, 2, 4, … 60 seconds from the third on."""
    if failures < _FAILURES_BEFORE_EJECTION:
        return 0.0
    return min(2.0 ** min(failures - _FAILURES_BEFORE_EJECTION, 10), _LONGEST_EJECTION_SECONDS)
