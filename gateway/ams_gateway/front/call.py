"""One request on its way through the gateway."""

import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from aiohttp import web
from ams_common.errors import ApiError
from ams_common.keys import OPEN, Principal
from ams_common.timeline import Facts, Track
from ams_common.traceparent import TraceContext

from ams_gateway.front.access import NO_HEADERS
from ams_gateway.front.log import Record

WORTH_A_NOTE_SECONDS = 0.001  # what takes less before a request is sent delays nobody
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

    `path` has no query, `name` is the one in the path of routes like `/generate/{model}`. `adapter` is the one that is
    asked for of a model that has some, empty for the model itself; None of other models. `stream` is the answer
    once its head was sent with status 200: from then on errors travel inside it. `headers` are those of every answer to
    it, `principal` is who it comes from. `admitted`: its use is counted. `events` is how many pieces of a stream went
    out, at least as many tokens. `recorder` takes the pod's answer as it passes, where it may be kept.

    `track` has what it went through, beyond being sent and answered; `noted` is when the last of that ended, `doing`
    what it does since. `failure` is the error that it was answered with, `pod_error` is the code of the one that
    a pod answered, `client_seconds` is how long writing the answer to the client took.
    """

    request: web.BaseRequest
    path: str
    record: Record
    started: float
    name: str = ""
    adapter: str | None = None
    stream: web.StreamResponse | None = None
    headers: Mapping[str, str] = field(default_factory=lambda: NO_HEADERS)
    principal: Principal = OPEN
    admitted: bool = False
    is_admin_action: bool = False
    has_headers: bool = False  # the answer has them, its id and our name
    events: int = 0
    recorder: "AnswerRecorder | None" = None
    pod_error: str = ""
    track: Track | None = None
    noted: float = 0.0
    failure: ApiError | None = None
    doing: str = "body"
    client_seconds: float = 0.0
    trace: TraceContext | None = None

    def note(self, name: str, then: str, facts: Facts | None = None) -> None:
        """An interval of this name ends now that began where the last one ended; `then` is what it does next."""
        if self.track is None:
            self.track = Track()
        now = time.perf_counter()
        self.track.note(name, self.noted or self.started, now, facts)
        self.noted, self.doing = now, then

    def add_headers(self, headers: Mapping[str, str]) -> None:
        """Headers for every answer to this request."""
        self.headers = {**self.headers, **headers}


def request_id(client_id: str | None) -> str:
    """The client's own id where it is safe in headers, logs and bodies, else a new one."""
    if client_id is not None and _VALID_ID(client_id):
        return client_id
    return os.urandom(12).hex()
