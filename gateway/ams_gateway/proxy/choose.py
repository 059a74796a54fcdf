"""Which pod gets a request."""

from collections.abc import Collection, Sequence

from ams_gateway.registry.port import Backend


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
