"""Headers on their way through: what one hop keeps to itself, and the head of a forwarded request."""

from collections.abc import Iterable

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
_OWN = ("accept-encoding", "authorization", "content-length", "cookie", "expect", "host", "x-api-key", "x-request-id")
_NOT_FORWARDED = frozenset(name.encode() for name in _HOP_BY_HOP + _OWN)
_NOT_RETURNED = (*_HOP_BY_HOP, "date", "server")


def request_head(
    method: str,
    target: str,
    host: str,
    client_headers: Iterable[tuple[bytes, bytes]],
    *,
    request_id: str,
    content_length: int,
    dropped: Iterable[bytes] = (),
) -> bytes:
    """The head of a request to a pod.

    `dropped` names further headers, in lower case, that end here.
    """
    not_forwarded = _NOT_FORWARDED.union(dropped) if dropped else _NOT_FORWARDED
    start = f"{method} {target} HTTP/1.1\r\nHost: {host}\r\nX-Request-Id: {request_id}\r\n"
    start += f"Content-Length: {content_length}\r\n"
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
    """The pod's headers that go on to the client, as a copy."""
    headers = pod_headers.copy()
    for name in _NOT_RETURNED:
        headers.popall(name, None)
    return headers
