"""Headers on their way through: what one hop keeps to itself, and the head of a forwarded request."""

from collections.abc import Iterable

from ams_common.keys import OPEN, Principal
from ams_common.names import HEADER_ADAPTER, HEADER_KEY_ID, HEADER_WEIGHT
from ams_common.printable import printable
from ams_common.traceparent import HEADER_TRACE_PARENT, HEADER_TRACE_STATE, TraceContext
from multidict import CIMultiDict, CIMultiDictProxy

# RFC 9110, 7.6.1: about one connection only.
_HOP_BY_HOP = (
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
)
# Written anew for the pod, or none of its business: a client's key opens the gateway, not the pod.
_OWN = (
    "accept-encoding", "api-key", "authorization", "content-length", "cookie", "expect", "host", "x-ams-adapter",
    "x-ams-key-id", "x-ams-weight", "x-api-key", "x-request-id",
)  # fmt: skip
_TRACE_HEADERS = (HEADER_TRACE_PARENT.encode(), HEADER_TRACE_STATE.encode())
_NOT_FORWARDED = frozenset(name.encode() for name in _HOP_BY_HOP + _OWN)
# What a pod may tell a client: a tenant's image must not set cookies, send elsewhere, or open what others serve here.
_RETURNED = frozenset(
    {
        "accept",
        "allow",
        "cache-control",
        "content-encoding",
        "content-length",
        "content-type",
        "retry-after",
        "x-accel-buffering",
        "x-ams-finish-reason",
        "x-ams-ignored-fields",
        "x-ams-image-size",
        "x-ams-queue-seconds",
        "x-ams-usage",
        "x-should-retry",
    }
)
_CONTENT_TYPES = ("application/json", "text/event-stream", "text/plain", "text/vtt", "application/x-subrip")
_UNKNOWN_TYPE = "application/octet-stream"


def request_head(
    method: str,
    target: str,
    host: str,
    client_headers: Iterable[tuple[bytes, bytes]],
    *,
    request_id: str,
    content_length: int,
    dropped: Iterable[bytes] = (),
    principal: Principal = OPEN,
    trace: TraceContext | None = None,
    adapter: str | None = None,
) -> bytes:
    """The head of a request to a pod, which is told whose it is, so that users share it fairly, and for which adapter.

    With `trace`, the pod's part of it takes the place of what the client sent. `dropped` names further headers, in
    lower case, that end here.
    """
    not_forwarded = _NOT_FORWARDED.union(dropped) if dropped else _NOT_FORWARDED
    start = f"{method} {target} HTTP/1.1\r\nHost: {host}\r\nX-Request-Id: {request_id}\r\n"
    start += f"Content-Length: {content_length}\r\n"
    start += f"{HEADER_KEY_ID}: {principal.id}\r\n{HEADER_WEIGHT}: {principal.policy.priority}\r\n"
    if adapter is not None:
        start += f"{HEADER_ADAPTER}: {adapter}\r\n"
    if trace is not None:
        not_forwarded = not_forwarded.union(_TRACE_HEADERS)
        start += f"{HEADER_TRACE_PARENT}: {trace.header}\r\n"
        if trace.state:
            start += f"{HEADER_TRACE_STATE}: {trace.state}\r\n"
    lines = [start.encode("utf-8", "surrogateescape")]
    typed = False
    for name, value in client_headers:
        lowered = name.lower()
        if lowered not in not_forwarded:
            lines.append(b"%b: %b\r\n" % (name, value))
            typed = typed or lowered == b"content-type"
    if not typed:
        lines.append(b"Content-Type: application/json\r\n")
    lines.append(b"\r\n")
    return b"".join(lines)


def named_by_connection(connection: str | None) -> set[bytes]:
    """The headers, in lower case, that a Connection header declares to be about this hop only."""
    if connection is None:
        return set()
    names = {name.strip().lower().encode("utf-8", "surrogateescape") for name in connection.split(",")}
    return names - {b"", b"close", b"keep-alive"}


def response_headers(pod_headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    """The pod's headers that go on to the client: those that clients know, the first of each, cleaned."""
    headers: CIMultiDict[str] = CIMultiDict()
    for name, value in pod_headers.items():
        if name.lower() in _RETURNED and name not in headers:
            headers[name] = printable(value)
    if (content_type := headers.get("Content-Type")) is not None:
        kind = content_type.partition(";")[0].strip().lower()
        if kind not in _CONTENT_TYPES and not kind.endswith("+json"):
            headers["Content-Type"] = _UNKNOWN_TYPE
    headers["X-Content-Type-Options"] = "nosniff"
    return headers
