"""A plain HTTP client over TCP or a Unix socket: one connection a request, the answer as it came."""

import http.client
import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_PATIENCE_SECONDS = 60.0


@dataclass(frozen=True)
class Answer:
    """One answer; a stream's `body` is all of its events."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """Requests to `host:port`, or to a Unix socket when `unix` is given."""

    def __init__(self, port: int = 0, unix: str = "") -> None:
        self._port = port
        self._unix = unix

    def get(self, path: str) -> Answer:
        return self.request("GET", path)

    def post(self, path: str, value: Any) -> Answer:
        return self.request("POST", path, json.dumps(value).encode())

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send it; a body without a Content-Type of its own is JSON. OSError if nobody answers."""
        connection = _UnixConnection(self._unix) if self._unix else _connection(self._port)
        typed = {} if body is None else {"Content-Type": "application/json"}
        try:
            connection.request(method, path, body, typed | dict(headers or {}))
            response = connection.getresponse()
            with response:
                return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()


def _connection(port: int) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE_SECONDS)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("pod", timeout=_PATIENCE_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_PATIENCE_SECONDS)
        self.sock.connect(self._path)
