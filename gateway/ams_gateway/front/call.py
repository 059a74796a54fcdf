"""One request on its way through the gateway."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from aiohttp import web
from ams_common.keys import OPEN, Principal

from ams_gateway.front.access import NO_HEADERS
from ams_gateway.front.log import Record

_VALID_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}").fullmatch


class AnswerRecorder(Protocol):
    """Takes an answer as it passes."""

    def begin(self, status: int, headers: dict[str, str], version: str, *, stream: bool) -> None: ...
    def feed(self, data: bytes) -> None: ...
    def end(self) -> None: ...


@dataclass(slots=True)
class Call:
    """A client's request and what is known of it. `started` is `time.perf_counter()`: uvloop's clock
    only counts whole milliseconds.

    `path` has no query, `name` is the one in the path of routes like `/generate/{model}`. `stream` is the answer
    once its head was sent with status 200: from then on errors travel inside it. `headers` are those of every answer to
    it, `principal` is who it comes from. `admitted`: its use is counted. `events` is how many pieces
    of a stream went out, at least as many tokens. `recorder`
    takes the pod's answer as it passes, where it may be kept. `pod_error` is the code of the error that a pod answered.
    """

    request: web.BaseRequest
    path: str
    record: Record
    started: float
    name: str = ""
    stream: web.StreamResponse | None = None
    headers: Mapping[str, str] = field(default_factory=lambda: NO_HEADERS)
    principal: Principal = OPEN
    admitted: bool = False
    is_admin_action: bool = False
    has_headers: bool = False  # the answer has them, its id and our name
    events: int = 0
    recorder: "AnswerRecorder | None" = None
    pod_error: str = ""

    def add_headers(self, headers: Mapping[str, str]) -> None:
        """Headers for every answer to this request."""
        self.headers = {**self.headers, **headers}


def request_id(client_id: str | None) -> str:
    """The client's own id where it is safe in headers, logs and bodies, else a new one."""
    if client_id is not None and _VALID_ID(client_id):
        return client_id
    return os.urandom(12).hex()
