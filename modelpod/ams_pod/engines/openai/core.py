"""The requests of one engine: which are sent, which wait, and the events that come back. All of it on one loop."""

import asyncio
import collections
import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from ams_pod.engines.openai.dialects.base import Dialect
from ams_pod.engines.openai.flight import Attempts, Flight
from ams_pod.engines.openai.http import Address, Answer, EngineUnreachable, Exchange, UnusableAnswer, connect
from ams_pod.engines.openai.pieces import (
    PLAIN_FORM,
    Asked,
    EngineGone,
    LoadedAdapter,
    MediaChat,
    Pair,
    Task,
    VectorForm,
    Written,
    most_tokens,
)
from ams_pod.engines.openai.slots import Slots
from ams_pod.engines.openai.watch import Signs
from ams_pod.engines.port import EngineCounters, EngineError, EngineRefusal, Publish, Ticket, TokenEvent
from ams_pod.shares import FairShares, Share

log = logging.getLogger(__name__)
_MOST_SENT = 2  # times, of a request that got nothing: one that ends its engine must not do so for ever
_BUSY_SECONDS = 0.25  # until an engine is asked again that had no room
_MOST_BUSY_SECONDS = 60.0  # for which an engine may have none for a request, though none of ours runs
_TAIL_SECONDS = 2.0  # for what an engine says behind the end of an answer, as how many tokens it has


@dataclass(frozen=True, slots=True)
class Terms:
    """What all requests of an engine are sent with. `ends` are the model's own tokens that end an answer.

    `vector_size` are the values of a vector, or 1 for a score; 0 where text is generated. `form` is how the engine is
    asked for them. `shared_tokens` is the room that all texts at the engine have together; 0: each has its own.
    """

    model: str
    context_tokens: int
    rows: int
    ends: frozenset[int]
    vocabulary: int | None = None
    adapters: Mapping[str, LoadedAdapter] = field(default_factory=dict)
    task: Task = "generate"
    vector_size: int = 0
    form: VectorForm = PLAIN_FORM
    shared_tokens: int = 0


@dataclass(slots=True)
class _Sent:
    flight: Flight
    exchange: Exchange | None = None
    opening: "asyncio.Task[None] | None" = field(default=None, repr=False)


class Core:
    """Requests wait here while the engine has no place for them, or isn't there."""

    def __init__(self, dialect: Dialect, publish: Publish, suspect: Callable[[], None]) -> None:
        """`suspect` is called when a request lost its engine."""
        self.counters = EngineCounters()
        self.address = Address()
        self.terms = Terms("", 4096, 1, frozenset())
        self._dialect, self._publish, self._suspect = dialect, publish, suspect
        self._slots: Slots | None = None
        self._waiting: collections.deque[tuple[Ticket, Attempts]] = collections.deque()
        self._sent: dict[Ticket, _Sent] = {}
        self._shares = FairShares()
        self._available = False
        self._outbox: list[TokenEvent] = []
        self._integral, self._integral_at = 0.0, 0.0  # of 1/n over the time in which n requests run
        self._stopped = False
        self._without: frozenset[str] = frozenset()  # fields that the engine refused
        now = time.monotonic()
        self.answered_at = self.progress_at = self.idle_since = now
        self._running_since: float | None = None
        self.cancelled_at: float | None = None  # and the engine wasn't seen idle since

    def begin(self, address: Address, terms: Terms) -> None:
        """An engine is there, perhaps a new one."""
        if self._slots is None or terms.rows != self.terms.rows:
            self._slots = Slots(terms.rows) if self._dialect.picks_slots else None
        elif self._slots is not None:
            self._slots.forget()
        self.address, self.terms = address, terms
        # Whatever adapters an engine had that is gone, they are these now.
        self._waiting = collections.deque(each for each in list(self._waiting) if self._has_adapter(*each))
        self._without = frozenset()
        self._answered()
        self.resume()

    def restarted(self, address: Address) -> None:
        """The same engine anew, perhaps elsewhere."""
        self.begin(address, self.terms)

    def resume(self) -> None:
        self._available = True
        self._dispatch()

    def pause(self) -> None:
        """Nothing more is sent until `resume`."""
        self._available = False

    @property
    def running(self) -> int:
        return len(self._sent)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def cache_tokens(self) -> int:
        """Tokens of prompts and answers that run."""
        return sum(each.flight.prompt_tokens + each.flight.count for each in list(self._sent.values()))

    def signs(self) -> Signs:
        return Signs(self.answered_at, self.progress_at, self._running_since)

    def answered(self) -> None:
        """The engine answered something, no matter what."""
        self._answered()

    def add(self, ticket: Ticket) -> None:
        if ticket.cancelled:
            self._end_unsent(ticket)
            return
        attempts = Attempts()
        if not self._has_adapter(ticket, attempts):
            return
        self._shares.enter(ticket.share)
        self._waiting.append((ticket, attempts))
        self._dispatch()

    def offer(self, adapters: Mapping[str, LoadedAdapter]) -> None:
        """Requests get these adapters from now on; those that came before keep what they got."""
        self.terms = replace(self.terms, adapters=dict(adapters))

    def uses(self, adapter: LoadedAdapter) -> bool:
        """Whether a request that runs or waits is to be computed with it."""
        waiting = any(attempts.adapter == adapter for _, attempts in self._waiting)
        return waiting or any(each.flight.attempts.adapter == adapter for each in self._sent.values())

    def _has_adapter(self, ticket: Ticket, attempts: Attempts) -> bool:
        """Choose the adapter that a request is computed with; it ends where there is none of its name."""
        name = ticket.sampling.adapter
        attempts.adapter = self.terms.adapters.get(name)
        if name and attempts.adapter is None:
            self._emit(TokenEvent(ticket, None, "failed", no_adapter(name)))
            return False
        return True

    def cancel(self, ticket: Ticket) -> None:
        sent = self._sent.get(ticket)
        if sent is not None:
            sent.flight.cancel()
            self._land(sent)
            self.cancelled_at = time.monotonic()
            return
        for entry in self._waiting:
            if entry[0] is ticket:
                self._waiting.remove(entry)
                self._end_unsent(ticket)
                return

    def lose_all(self, sentence: str) -> None:
        """The engine is gone, or will be: what it computed is lost."""
        for sent in list(self._sent.values()):
            self._lost(sent, sentence)

    def close(self) -> None:
        self._stopped = True
        self._available = False
        for sent in list(self._sent.values()):
            sent.flight.cancel()
            self._land(sent)
        while self._waiting:
            self._end_unsent(self._waiting.popleft()[0])
        self._flush()

    def _end_unsent(self, ticket: Ticket) -> None:
        self._emit(TokenEvent(ticket, None, "cancelled"))

    def _dispatch(self) -> None:
        while self._available and self._waiting and len(self._sent) < self.terms.rows:
            ticket, attempts = self._next()
            if ticket.cancelled:
                self._end_unsent(ticket)
                continue
            if not self._has_room(ticket):
                self._waiting.appendleft((ticket, attempts))
                return
            self._send(ticket, attempts)

    def _has_room(self, ticket: Ticket) -> bool:
        """Whether it fits beside what runs, where that shares its room. One alone always does."""
        if not self.terms.shared_tokens or not self._sent:
            return True
        taken = sum(self._most_tokens(each) for each in self._sent)
        return taken + self._most_tokens(ticket) <= self.terms.shared_tokens

    def _most_tokens(self, ticket: Ticket) -> int:
        return min(most_tokens(ticket.prepared), self.terms.context_tokens)

    def _next(self) -> tuple[Ticket, Attempts]:
        """Of the key whose turn it is, the first."""
        if len(self._waiting) == 1:
            return self._waiting.popleft()
        entry = self._shares.in_order(self._waiting, _share)[0]
        self._waiting.remove(entry)
        return entry

    def _send(self, ticket: Ticket, attempts: Attempts) -> None:
        now = time.monotonic()
        flight = Flight(ticket, self._emit, self.terms.ends, attempts)
        attempts.sent += 1
        reuses, salt = True, _salt(ticket)
        if self._slots is not None and not isinstance(ticket.prepared.media, MediaChat):
            flight.slot, reuses = self._slots.take(ticket.prepared.ids, _owner(ticket, salt))
        asked = self._asked(flight, salt, reuses=reuses)
        sent = _Sent(flight)
        try:
            path, body = self._dialect.request(asked)
        except EngineRefusal as refusal:
            if flight.slot is not None and self._slots is not None:
                self._slots.give_back(flight.slot)
            flight.fail(refusal)
            return
        if ticket.started_at is None:
            ticket.waits.note("slot", now)
            ticket.started_at = now
        self._tick(now)
        flight.mark = self._integral
        self._sent[ticket] = sent
        if self._running_since is None:
            self._running_since = now
        self.progress_at = max(self.progress_at, now)
        streams = self._dialect.streams(asked)
        sent.exchange = Exchange(
            self.address.head("POST", path, len(body)) + body,
            lambda result: self._ended(sent, asked, result),
            (lambda events: self._take(sent, events)) if streams else None,
        )
        sent.opening = asyncio.get_running_loop().create_task(self._open(sent, sent.exchange))

    def _asked(self, flight: Flight, salt: str, *, reuses: bool) -> Asked:
        ticket, prepared = flight.ticket, flight.ticket.prepared
        return Asked(
            prepared.ids,
            ticket.sampling,
            self.terms.model,
            self.terms.context_tokens,
            chat=prepared.media if isinstance(prepared.media, MediaChat) else None,
            task=self.terms.task,
            pair=prepared.media if isinstance(prepared.media, Pair) else None,
            form=self.terms.form,
            text=prepared.media.text if isinstance(prepared.media, Written) else None,
            thinking=prepared.thinking,
            salt=salt,
            slot=flight.slot,
            reuses=reuses,
            vocabulary=self.terms.vocabulary,
            adapter=flight.attempts.adapter,
            adapters=len(self.terms.adapters),
            without=self._without,
        )

    async def _open(self, sent: _Sent, exchange: Exchange) -> None:
        try:
            await connect(self.address, exchange)
        except EngineUnreachable as error:
            self._lost(sent, str(error))

    def _take(self, sent: _Sent, events: list[bytes]) -> None:
        """What a read brought."""
        self.answered_at = self.progress_at = time.monotonic()
        flight = sent.flight
        if flight.count == 0:
            flight.ticket.waits.note("reading", self.progress_at)
        before = flight.count
        try:
            for data in events:
                piece = self._dialect.pieces(data)
                if piece is not None and isinstance(piece.error, EngineGone):
                    self._lost(sent, str(piece.error))
                    return
                if piece is not None:
                    flight.take(piece)
                else:  # [DONE]
                    flight.say_done()
        except EngineError as error:
            flight.fail(error)
        if flight.finished and not flight.ended and flight.tail is None:
            flight.tail = asyncio.get_running_loop().call_later(_TAIL_SECONDS, self._end_tail, sent)
        self.counters.decode_tokens += flight.count - before
        if flight.ended:
            self._land(sent)

    def _end_tail(self, sent: _Sent) -> None:
        """The answer is there, and its engine neither says so nor closes the connection."""
        sent.flight.complete()
        self._land(sent)

    def _ended(self, sent: _Sent, asked: Asked, result: Answer | EngineUnreachable | None) -> None:
        """The exchange is over."""
        self._answered()
        flight = sent.flight
        if sent.flight.ended:
            return
        if isinstance(result, EngineUnreachable):
            if flight.finished:
                flight.complete()
                self._land(sent)
            elif isinstance(result, UnusableAnswer):
                flight.fail(self._dialect.unusable(f"sent what can't be used: {result}"))
                self._land(sent)
            else:
                self._lost(sent, str(result))
            return
        if isinstance(result, Answer):
            result = self._without_key(result)
            if result.status in (429, 503) and self._may_wait(flight.attempts):
                self._put_off(sent)
                return
            field = self._dialect.dispensable(result.status, result.body)
            if field is not None and field not in asked.without:
                self._send_without(sent, field)
                return
            try:
                if result.status != 200:
                    raise self._dialect.failure(result.status, result.body, asked)
                self.progress_at = self.answered_at
                if asked.task != "generate":
                    flight.take(self._dialect.vector(result.body, self.terms.vector_size, asked.form))
                elif (piece := self._dialect.pieces(result.body)) is not None:
                    if isinstance(piece.error, EngineGone):
                        raise piece.error
                    flight.take(piece)
                    self.counters.decode_tokens += flight.count
            except EngineGone as error:
                self._lost(sent, str(error))
                return
            except EngineError as error:
                flight.fail(error)
        flight.complete()
        self._land(sent)

    def _lost(self, sent: _Sent, why: str) -> None:
        """Its engine is gone: sent once more where the client got nothing, an error else."""
        flight = sent.flight
        if flight.ended:
            return
        if flight.count == 0 and flight.attempts.sent < _MOST_SENT and not self._stopped:
            self._land(sent)
            self._waiting.appendleft((flight.ticket, flight.attempts))
        else:
            title = self._dialect.title
            flight.fail(
                EngineRefusal(
                    "engine-lost",
                    f"{title}, which computed this answer, ended before it was complete ({why}); it is started again.",
                )
            )
            self._land(sent)
        self.pause()
        self._suspect()

    def _may_wait(self, attempts: Attempts) -> bool:
        """Whether a request that the engine has no room for is kept for later."""
        now = time.monotonic()
        if attempts.put_off_at is None or len(self._sent) > 1:
            attempts.put_off_at = now  # while others run there may be room when they end
        return now - attempts.put_off_at < _MOST_BUSY_SECONDS

    def _without_key(self, answer: Answer) -> Answer:
        """What an engine says may hold what it was asked with."""
        key = self.address.key.encode()
        return Answer(answer.status, answer.body.replace(key, b"...")) if key and key in answer.body else answer

    def _send_without(self, sent: _Sent, field: str) -> None:
        """The engine refused a field that requests may go without."""
        if field not in self._without:
            log.warning("%s takes no %s from requests, which go without", self._dialect.title, field)
            self._without |= {field}
        flight = sent.flight
        flight.attempts.sent -= 1
        self._waiting.appendleft((flight.ticket, flight.attempts))
        self._land(sent)

    def _put_off(self, sent: _Sent) -> None:
        """The engine has no room, or isn't ready: asked again in a moment."""
        flight = sent.flight
        flight.attempts.sent -= 1
        self._land(sent)
        self._waiting.appendleft((flight.ticket, flight.attempts))
        self.pause()
        asyncio.get_running_loop().call_later(_BUSY_SECONDS, self._suspect)

    def _land(self, sent: _Sent) -> None:
        """It runs no longer, however it ended."""
        flight = sent.flight
        if flight.ticket not in self._sent:
            return
        now = time.monotonic()
        self._tick(now)
        del self._sent[flight.ticket]
        if flight.tail is not None:
            flight.tail.cancel()
        if sent.exchange is not None:
            sent.exchange.abort()
        if self._slots is not None and flight.slot is not None:
            self._slots.give_back(flight.slot)
        self._account(flight)
        if not self._sent:
            self._running_since, self.idle_since = None, now
        if not self._stopped:
            self._dispatch()

    def _account(self, flight: Flight) -> None:
        ticket, seconds = flight.ticket, self._integral - flight.mark
        ticket.compute_seconds += seconds
        self._shares.charge(ticket.share, seconds)
        work = self.counters.work_of(ticket.share.key)
        if flight.embedding is None:
            work.answer_seconds += seconds
        else:
            work.prompt_seconds += seconds
        work.answer_tokens += flight.count
        if flight.count or flight.embedding is not None:
            read = max(0, flight.prompt_tokens - flight.cached)
            self.counters.prefill_tokens += read
            self.counters.prefix_queries += flight.prompt_tokens
            self.counters.prefix_hits += flight.cached
            work.prompt_tokens += read

    def _tick(self, now: float) -> None:
        """The engine's time until now, shared out among the requests that ran."""
        if self._sent:
            self._integral += (now - self._integral_at) / len(self._sent)
            self.counters.busy_seconds += now - self._integral_at
        self._integral_at = now

    def _answered(self) -> None:
        self.answered_at = time.monotonic()

    def _emit(self, event: TokenEvent) -> None:
        if not self._outbox:
            asyncio.get_running_loop().call_soon(self._flush)
        self._outbox.append(event)

    def _flush(self) -> None:
        if self._outbox:
            events, self._outbox = self._outbox, []
            self.counters.steps += 1
            self._publish(events)


def no_adapter(name: str) -> EngineRefusal:
    return EngineRefusal("unsupported", f"This model has no adapter {name[:100]!r}.")


def _share(entry: tuple[Ticket, Attempts]) -> Share:
    return entry[0].share


def _salt(ticket: Ticket) -> str:
    """What stands for the salt at an engine: empty where all may share what is cached."""
    if not ticket.cache_salt.strip():
        return ""
    return hashlib.blake2b(ticket.cache_salt.encode(), digest_size=16).hexdigest()


def _owner(ticket: Ticket, salt: str) -> str:
    """Whose cached prompts a slot holds: what an adapter computed is of no use to others."""
    adapter = ticket.sampling.adapter
    return f"{adapter} {salt}" if adapter else salt
