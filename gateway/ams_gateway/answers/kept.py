"""One answer that is kept, and how it is collected while it goes to the client who asked first."""

import msgspec

_ENDS_OF_STREAMS = (b"data: [DONE]\n\n", b'data: {"type":"message_stop"}\n\n', b'data: {"type": "message_stop"}\n\n')
_DEGRADED = b'"degraded"'  # an answer that memory ran out for; the next may be better


class KeptAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The body and the headers that are the answer's own; `stream` tells events from a plain answer.

    `usage` is that of whoever asked first, as `ams_common.request_usage` writes it.
    """

    body: bytes
    headers: dict[str, str]
    stream: bool = False
    usage: str = ""

    @property
    def size(self) -> int:
        """Bytes in memory, roughly."""
        return len(self.body) + sum(len(name) + len(value) for name, value in self.headers.items()) + 500


class Recorder:
    """Collects an answer of at most `most_bytes`; `take` gives it if it came to its end and is worth keeping."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._parts: list[bytes] = []
        self._size = 0
        self._headers: dict[str, str] | None = None
        self._stream = False
        self._ended = False
        self.version = ""

    def begin(self, status: int, headers: dict[str, str], version: str, *, stream: bool) -> None:
        """`version` is what the pod says of itself; without one nothing is kept."""
        self._headers = headers if status == 200 and version else None
        self._stream = stream
        self.version = version
        self._parts, self._size, self._ended = [], 0, False

    def feed(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._most_bytes:
            self._parts.clear()
        elif self._headers is not None:
            self._parts.append(data)

    def end(self) -> None:
        self._ended = True

    def take(self, usage: str) -> KeptAnswer | None:
        if not self._ended or self._headers is None or self._size > self._most_bytes or not self._size:
            return None
        body = b"".join(self._parts)
        if _DEGRADED in body or (self._stream and not body.endswith(_ENDS_OF_STREAMS)):
            return None
        return KeptAnswer(body=body, headers=self._headers, stream=self._stream, usage=usage)
