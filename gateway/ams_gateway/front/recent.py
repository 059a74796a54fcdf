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
    Track,
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
        started, track = self.at - record.seconds, self.track
        if not track and record.first_byte_seconds is not None:
            answered = self.began + record.first_byte_seconds
            track = ("send", self.began, answered, None, "answer", answered, self.began + record.seconds, None)
        return _timeline(record, track, started, self.began, record.seconds, self.key, self.message, facts)


class RecentRequests:
    """Of one gateway, on its event loop."""

    def __init__(self) -> None:
        self.running: dict[int, Call] = {}  # by identity
        self._ordinary: Ring[EndedRequest] = Ring(_MOST_ORDINARY, _ORDINARY_BYTES)
        self._notable: Ring[EndedRequest] = Ring(_MOST_NOTABLE, _NOTABLE_BYTES)

    def end(self, call: Call, late_seconds: float) -> EndedRequest:
        """`late_seconds`: by how much the event loop was late meanwhile."""
        record = call.record
        good = record.code < 400 and not record.error and record.seconds < SLOW_SECONDS
        if good and call.track is None and call.doing == "answer" and not late_seconds and _took_it(call):
            # Nearly all: nothing is noted of them that their record doesn't have.
            ended = EndedRequest(record, (), time.time(), call.started, call.principal.id, "", b"", _ENTRY_BYTES)
            self._ordinary.add(ended)
            return ended
        facts, message = b"", ""
        if record.code >= 400 or record.error or late_seconds:
            facts = msgspec.json.encode(_facts(call, late_seconds))
            message = call.failure.message[:LONGEST_TEXT] if call.failure is not None else ""
        track = _whole_track(call)
        size = _ENTRY_BYTES + len(facts) + _FIELD_BYTES * len(track)
        ended = EndedRequest(record, track, time.time(), call.started, call.principal.id, message, facts, size)
        (self._ordinary if good and not record.retries else self._notable).add(ended)
        return ended

    def find(self, request_id: str) -> Timeline | None:
        """The newest request of this id."""
        for call in reversed(self.running.values()):
            if call.record.id == request_id:
                return _running(call)
        found = [ring.find(request_id) for ring in (self._notable, self._ordinary)]
        ended = max((each for each in found if each is not None), key=lambda each: each.at, default=None)
        return None if ended is None else ended.timeline()

    def of_model(self, model: str, most: int) -> list[Timeline]:
        """Requests of a model that were slow or failed lately, and those that run for long: the newest first."""
        slow = [
            call
            for call in self.running.values()
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


def _took_it(call: Call) -> bool:
    """Whether the client read its answer as it came."""
    return call.trace is None and call.client_seconds <= _CLIENT_SECONDS


def _whole_track(call: Call) -> tuple[str | float | bytes | None, ...]:
    """What was noted, and what it did last."""
    first_byte, now = call.record.first_byte_seconds, call.started + call.record.seconds
    track = call.track if call.track is not None else Track()
    if call.doing in ("answer", "kept") and first_byte is not None:
        answered = call.started + first_byte
        if call.doing == "answer":
            track.note("send", call.noted or call.started, answered)
        facts: Facts = {"client_seconds": call.client_seconds} if call.client_seconds > _CLIENT_SECONDS else {}
        track.note(call.doing, answered, now, facts or None)
    elif call.doing != "choose":  # it got no further, and that took no time
        track.note(call.doing, call.noted or call.started, now)
    return tuple(track)


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
    if call.doing == "answer" and (first_byte := call.record.first_byte_seconds) is not None:
        since = first_byte
    doing = interval(call.doing, since, seconds - since)
    track = Track() if call.track is None else call.track
    return _timeline(call.record, track, now - seconds, call.started, seconds, call.principal.id, "", _NO_FACTS, doing)


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
