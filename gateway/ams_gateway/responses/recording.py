"""A response on its way to the client: the whole of it is the answer, or in the last event of a stream."""

from collections.abc import Callable

_LAST = (b"event: response.completed\n", b"event: response.incomplete\n")
_DATA = b"data: "
_RESPONSE = b'"response":'


class ResponseRecorder:
    """Calls `take` with the response's JSON as soon as it is whole, before the client has it."""

    def __init__(self, most_bytes: int, take: Callable[[bytes], None]) -> None:
        self._most_bytes, self._take = most_bytes, take
        self._parts: list[bytes] = []
        self._size = 0
        self._stream = self._good = False

    def begin(self, status: int, headers: dict[str, str], version: str, *, stream: bool) -> None:
        """As of `ams_gateway.front.call.AnswerRecorder`."""
        self._good, self._stream = status == 200, stream
        self._parts, self._size = [], 0

    def feed(self, data: bytes) -> None:
        """Of a stream whole events, unless one is very long."""
        if not self._good:
            return
        if self._stream:
            if any(mark in data for mark in _LAST) and (response := last_response(data)) is not None:
                self._take(response)
            return
        self._size += len(data)
        if self._size <= self._most_bytes:
            self._parts.append(data)
        else:
            self._parts.clear()

    def end(self) -> None:
        if self._good and not self._stream and self._parts:
            self._take(b"".join(self._parts))


def last_response(events: bytes) -> bytes | None:
    """The response in the event that ends a stream, if it is among these."""
    for mark in _LAST:
        _, found, rest = events.rpartition(mark)
        if found and rest.startswith(_DATA):
            data = rest[len(_DATA) :].partition(b"\n")[0]
            _, found, response = data.partition(_RESPONSE)
            return response[:-1] if found and response.endswith(b"}}") else None
    return None
