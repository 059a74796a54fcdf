"""What each request went through in this pod, and the ring of those that ended lately."""

import time
from collections import Counter
from collections.abc import Mapping

import msgspec
from ams_common.errors import ApiError
from ams_common.printable import printable
from ams_common.timeline import (
    LONGEST_TEXT,
    MOST_BESIDE,
    Beside,
    Facts,
    Interval,
    Ring,
    Timeline,
    bounded,
    interval,
)
from ams_common.traceparent import TraceContext

from ams_pod.engines.port import EngineCounters, Ticket
from ams_pod.serve.machine import MachineWatch
from ams_pod.waits import CAUSES

SLOW_SECONDS = 1.0
_MOST_ORDINARY, _ORDINARY_BYTES = 512, 2 << 20
_MOST_NOTABLE, _NOTABLE_BYTES = 2048, 8 << 20
_MOST_TOLD = 20
_MOST_RUNNING = 4096
_LEFT = 499
_LEAST_SECONDS = 0.001

_Work = dict[str, tuple[int, float, int, float, float]]


class RequestTrack:
    """One request. Times are monotonic seconds."""

    def __init__(self, route: str, model: str = "") -> None:
        self.route, self.model = route, model
        self.id = self.key = ""
        self.began, self.started = time.monotonic(), time.time()
        self.received_at: float | None = None
        self.submitted_at: float | None = None
        self.first_token_at: float | None = None
        self.last_token_at: float | None = None
        self.longest_gap = 0.0
        self.waits: Mapping[str, float] = {}
        self.tickets: list[Ticket] = []
        self.code = 0
        self.error, self.message = "", ""
        self._facts: Facts = {}
        self._tokens = 0
        self._work: list[_Work] = []  # when it was submitted, and at its first token
        self._latest: EngineCounters | None = None
        self._end: _Work | None = None
        self.trace: TraceContext | None = None

    def admitted(self, holders: "Counter[str] | None") -> None:
        """It was read and wants a place. `holders` has places by key, where all in the batch are taken."""
        self.received_at = time.monotonic()
        if holders:
            self.crowded(holders)

    def crowded(self, holders: "Counter[str]") -> None:
        """Who holds the places: how many each key."""
        self._facts["holders"] = ", ".join(f"{key or 'no key'}: {held}" for key, held in holders.most_common(8))

    def submitted(self, counters: EngineCounters) -> None:
        if self.submitted_at is None:
            self.submitted_at, self._latest = time.monotonic(), counters
            self._work.append(_copy(counters))

    def token(self, now: float, counters: EngineCounters) -> None:
        self._tokens += 1
        if self.last_token_at is None:
            self.first_token_at = now
            self._work.append(_copy(counters))
        elif now - self.last_token_at > self.longest_gap:
            self.longest_gap = now - self.last_token_at
        self.last_token_at = now

    def answered(self, code: int) -> None:
        self.code = code

    def failed(self, error: ApiError) -> None:
        self.error, self.message = error.code, error.message

    def timeline(self, now: float, machine: Facts, *, running: bool) -> Timeline:
        return Timeline(
            component="pod",
            id=printable(self.id, 128),
            key=printable(self.key, 128),
            started=self.started,
            seconds=now - self.began,
            running=running,
            route=self.route,
            model=self.model,
            code=self.code or (0 if running else _LEFT),
            error=printable(self.error, 64),
            message=printable(self.message, LONGEST_TEXT),
            intervals=tuple(self._intervals(now)),
            beside=tuple(self._beside()),
            facts=bounded({**self._told(now), **machine}),
        )

    def _intervals(self, now: float) -> list[Interval]:
        """What it waited for in turns is put one behind the other, as long as it was in all."""
        ends = (self.received_at or now) - self.began
        found = [interval("receive", 0.0, ends)]
        waits = dict(self.waits)
        first = self.first_token_at
        if first is None and self.received_at is not None:
            waits = self._so_far(now)
        for cause in (*CAUSES, "waiting"):
            if (seconds := waits.get(cause, 0.0)) > 0:
                found.append(interval(cause, ends, seconds))
                ends += seconds
        if first is not None and self.last_token_at is not None:
            if (rest := first - self.began - ends) > _LEAST_SECONDS:  # of an engine that doesn't say what it did
                found.append(interval("unsaid", ends, rest))
            found.append(interval("decode", first - self.began, self.last_token_at - first, {"tokens": self._tokens}))
            found.append(interval("writing", self.last_token_at - self.began, now - self.last_token_at))
        return found

    def _so_far(self, now: float) -> dict[str, float]:
        """What a request without a token waited for."""
        waits: dict[str, float] = dict(self.waits)
        for ticket in self.tickets[:1]:
            waits |= {str(cause): seconds for cause, seconds in ticket.waits.seconds.items()}
        since = self.tickets[0].waits.since if self.tickets else self.received_at or now
        waits["waiting"] = max(0.0, now - max(since, self.received_at or since))
        return waits

    def _beside(self) -> list[Beside]:
        if not self._work or self._latest is None:
            return []
        states = [*self._work, _copy(self._latest)] if self._end is None else [*self._work, self._end]
        found = []
        for stage, before, after in zip(("prompt", "answer"), states, states[1:], strict=False):
            for key, work in after.items():
                was = before.get(key, (0, 0.0, 0, 0.0, 0.0))
                tokens, seconds, made, making, media = (new - old for new, old in zip(work, was, strict=True))
                if tokens or made or media > 0:
                    found.append(
                        Beside(
                            key=printable(key, 128), stage=stage, own=key == self.key,
                            prompt_tokens=int(tokens), prompt_seconds=round(max(0.0, seconds), 6),
                            answer_tokens=int(made), answer_seconds=round(max(0.0, making), 6),
                            media_seconds=round(max(0.0, media), 6),
                        )
                    )  # fmt: skip
        found.sort(key=lambda each: each.prompt_seconds + each.media_seconds, reverse=True)
        return found[:MOST_BESIDE]

    def end(self) -> None:
        """Nothing more happens to it."""
        if self._latest is not None:
            self._end = _copy(self._latest)

    def _told(self, now: float) -> Facts:
        facts = dict(self._facts)
        if self._tokens:
            facts["completion_tokens"] = self._tokens
            facts["longest_gap_seconds"] = self.longest_gap
        if not self.tickets:
            return facts
        facts["prompt_tokens"] = sum(len(ticket.prepared.ids) for ticket in self.tickets)
        if media := sum(ticket.prepared.media_items for ticket in self.tickets):
            facts["media"] = media
        facts["compute_seconds"] = sum(ticket.compute_seconds for ticket in self.tickets)
        if times := sum(ticket.set_asides for ticket in self.tickets):
            facts["set_aside"] = times
        rungs = dict.fromkeys(rung for ticket in self.tickets for rung in ticket.rungs)
        if rungs:
            facts["rungs"] = ", ".join(rungs)
            since = min(ticket.first_rung_at or now for ticket in self.tickets)
            facts["ladder_seconds"] = max(0.0, (self.last_token_at or now) - since)
        return facts


class _Kept(msgspec.Struct, frozen=True, gc=False):
    timeline: Timeline
    at: float
    size: int

    @property
    def id(self) -> str:
        return self.timeline.id


class RecentTracks:
    """Requests that run, and those that ended lately: what was slow or failed is remembered apart from the rest."""

    def __init__(self, machine: MachineWatch) -> None:
        self._machine = machine
        self._running: dict[int, RequestTrack] = {}
        self._ordinary: Ring[_Kept] = Ring(_MOST_ORDINARY, _ORDINARY_BYTES)
        self._notable: Ring[_Kept] = Ring(_MOST_NOTABLE, _NOTABLE_BYTES)

    def begin(self, route: str, model: str = "") -> RequestTrack:
        track = RequestTrack(route, model)
        if len(self._running) < _MOST_RUNNING:
            self._running[id(track)] = track
        return track

    def end(self, track: RequestTrack) -> Timeline:
        self._running.pop(id(track), None)
        track.end()
        now = time.monotonic()
        timeline = track.timeline(now, self._machine.during(track.began, now), running=False)
        track.tickets.clear()
        notable = timeline.code >= 400 or timeline.error or timeline.seconds >= SLOW_SECONDS
        size = 800 + 300 * len(timeline.intervals) + 300 * len(timeline.beside) + 100 * len(timeline.facts)
        (self._notable if notable else self._ordinary).add(_Kept(timeline, time.time(), size))
        return timeline

    def timelines(self, request_id: str) -> list[Timeline]:
        """Those of this id, the newest last; without one those that are slow or failed, the newest first."""
        now = time.monotonic()
        if not request_id:
            slow = [track for track in self._running.values() if now - track.began >= SLOW_SECONDS]
            found = [self._now(track, now) for track in slow[-_MOST_TOLD:]]
            for kept in self._notable.newest_first():
                if len(found) >= _MOST_TOLD:
                    break
                found.append(kept.timeline)
            return found
        ended = [ring.find(request_id) for ring in (self._notable, self._ordinary)]
        running = [self._now(track, now) for track in self._running.values() if track.id == request_id]
        known = [kept.timeline for kept in ended if kept is not None]
        return sorted(known + running[-5:], key=lambda each: each.started)

    def _now(self, track: RequestTrack, now: float) -> Timeline:
        return track.timeline(now, self._machine.during(track.began, now), running=True)

    @property
    def reaches_back_to(self) -> float | None:
        """Unix time since when every request that was slow or failed is known; None if none was forgotten."""
        return self._notable.reaches_back_to if self._notable.forgotten else None


def _copy(counters: EngineCounters) -> _Work:
    """What was computed so far, by key."""
    return {
        key: (
            work.prompt_tokens,
            work.prompt_seconds,
            work.answer_tokens,
            work.answer_seconds,
            work.media_seconds,
        )
        for key, work in dict(counters.by_key).items()
    }
