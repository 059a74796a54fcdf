"""Requests that run, and those that ended lately, with what they went through: for `GET /admin/why`.

What was fast and good is forgotten soon; what was slow or failed is what people ask about, and has a ring of its own
that a flood of others can't empty.
"""

import time

import msgspec
from ams_common.printable import printable
from ams_common.timeline import (
    LONGEST_TEXT,
    MOST_INTERVALS,
    Facts,
    Interval,
    PackedTrack,
    Ring,
    Timeline,
    bounded,
    interval,
    intervals_of,
)

from ams_gateway.front.call import Call
from ams_gateway.front.log import Record

SLOW_SECONDS = 1.0
_MOST_ORDINARY, _ORDINARY_BYTES = 512, 2 << 20
_MOST_NOTABLE, _NOTABLE_BYTES = 8192, 16 << 20
_ENTRY_BYTES, _FIELD_BYTES = 1200, 60  # about what they take in memory
_CLIENT_SECONDS = 0.01
_DETAILS = ("limit", "reason", "phase")  # of an error, that tell which cause it has


class EndedRequest(msgspec.Struct, frozen=True, gc=False):
    """A request that ended at Unix time `at`: its line of the log and its track. `facts` are JSON."""

    record: Record
    track: tuple[str | float | bytes | None, ...]
    at: float
    began: float
    key: str
    message: str
    facts: bytes
    size: int

    @property
    def id(self) -> str:
        return self.record.id

    def timeline(self) -> Timeline:
        record = self.record
        facts = msgspec.json.decode(self.facts, type=Facts) if self.facts else _NO_FACTS
        started = self.at - record.seconds
        return _timeline(record, self.track, started, self.began, record.seconds, self.key, self.message, facts)


class RecentRequests:
    """Of one gateway, on its event loop."""

    def __init__(self) -> None:
        self._running: dict[int, Call] = {}
        self._ordinary: Ring[EndedRequest] = Ring(_MOST_ORDINARY, _ORDINARY_BYTES)
        self._notable: Ring[EndedRequest] = Ring(_MOST_NOTABLE, _NOTABLE_BYTES)

    def begin(self, call: Call) -> None:
        self._running[id(call)] = call

    def end(self, call: Call, late_seconds: float, *, remember: bool = True) -> EndedRequest | None:
        """`late_seconds`: by how much the event loop was late meanwhile."""
        self._running.pop(id(call), None)
        if not remember:
            return None
        if call.doing != "choose":  # it got no further, and that took no time
            call.note(call.doing, "", _of_client(call) if call.client_seconds > _CLIENT_SECONDS else None)
        record = call.record
        facts, message = b"", ""
        if record.code >= 400 or record.error or late_seconds:
            facts = msgspec.json.encode(_facts(call, late_seconds))
            message = call.failure.message[:LONGEST_TEXT] if call.failure is not None else ""
        track = tuple(call.track)
        size = _ENTRY_BYTES + len(facts) + _FIELD_BYTES * len(track)
        ended = EndedRequest(record, track, time.time(), call.started, call.principal.id, message, facts, size)
        if record.code >= 400 or record.seconds >= SLOW_SECONDS or record.error or record.retries:
            self._notable.add(ended)
        else:
            self._ordinary.add(ended)
        return ended

    def find(self, request_id: str) -> Timeline | None:
        """The newest request of this id."""
        for call in reversed(self._running.values()):
            if call.record.id == request_id:
                return _running(call)
        found = [ring.find(request_id) for ring in (self._notable, self._ordinary)]
        ended = max((each for each in found if each is not None), key=lambda each: each.at, default=None)
        return None if ended is None else ended.timeline()

    def of_model(self, model: str, most: int) -> list[Timeline]:
        """Requests of a model that were slow or failed lately, and those that run for long: the newest first."""
        slow = [
            call
            for call in self._running.values()
            if call.record.model == model and time.perf_counter() - call.started >= SLOW_SECONDS
        ]
        found = [_running(call) for call in reversed(slow[-most:])]
        for ended in self._notable.newest_first():
            if len(found) >= most:
                break
            if ended.record.model == model:
                found.append(ended.timeline())
        return found

    @property
    def reaches_back_to(self) -> float | None:
        """Unix time since when every request that was slow or failed is known; None if none was forgotten."""
        return self._notable.reaches_back_to if self._notable.forgotten else None

    @property
    def ordinary_reach_back_to(self) -> float | None:
        """The same of all others."""
        return self._ordinary.reaches_back_to if self._ordinary.forgotten else None


_NO_FACTS: Facts = {}


def _of_client(call: Call) -> Facts:
    return {"client_seconds": call.client_seconds}


def _facts(call: Call, late_seconds: float) -> Facts:
    facts: Facts = {}
    if late_seconds:
        facts["late_seconds"] = late_seconds
    if call.pod_error and call.failure is None:
        facts["pod_error"] = call.pod_error
    details = call.failure.details if call.failure is not None else {}
    for name in _DETAILS:
        value = details.get(name)
        if isinstance(value, str | int | float):
            facts[name] = value
    return bounded(facts)


def _running(call: Call) -> Timeline:
    """What is known so far, with what it does now as the last interval."""
    now, seconds = time.time(), time.perf_counter() - call.started
    since = (call.noted or call.started) - call.started
    doing = interval(call.doing, since, seconds - since)
    return _timeline(
        call.record, call.track, now - seconds, call.started, seconds, call.principal.id, "", _NO_FACTS, doing
    )


def _timeline(
    record: Record,
    track: PackedTrack,
    started: float,
    began: float,
    seconds: float,
    key: str,
    message: str,
    facts: Facts,
    doing: Interval | None = None,
) -> Timeline:
    intervals = intervals_of(track, began)
    return Timeline(
        component="gateway",
        id=printable(record.id, 128),
        started=started,
        seconds=max(0.0, seconds),
        running=doing is not None,
        model=printable(record.model, LONGEST_TEXT),
        key=printable(key, 128),
        pod=printable(record.pod, LONGEST_TEXT),
        route=printable(record.route, LONGEST_TEXT),
        code=record.code,
        error=printable(record.error, 64),
        message=printable(message, LONGEST_TEXT),
        intervals=intervals if doing is None else (*intervals[: MOST_INTERVALS - 1], doing),
        facts=facts,
    )
