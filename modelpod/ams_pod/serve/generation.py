"""One request between the engine's tokens and the client's text."""

import asyncio
import collections
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from ams_common.errors import ApiError
from ams_common.request_usage import RequestUsage
from ams_common.wire import FinishReason, Usage

from ams_pod.engines.port import Degraded, Engine, Prepared, Sampling, Ticket, TokenEvent, TokenLogprobs
from ams_pod.serve.counts import Ending
from ams_pod.serve.degraded import SIMPLIFIED
from ams_pod.serve.metrics import PodMetrics
from ams_pod.serve.refusals import api_error
from ams_pod.serve.request_meter import RequestMeter
from ams_pod.serve.stops import StopStrings
from ams_pod.serve.thinking import CallDelta, Delta, ThinkSplitter, joined
from ams_pod.shares import EVERYBODY
from ams_pod.tool_calls import CallParser

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AnswerRules:
    """How the text of an answer is made of its tokens.

    `raw`: it goes on from a text, and is what the model wrote; reasoning isn't told apart. `goes_on`: it goes on from a
    message that was begun. `calls` makes what finds calls of tools in it. `special`: special tokens give their text.
    `include_stop`: what stopped it belongs to it. `nothing`: no token of it is wanted, only what is told of the prompt.
    """

    raw: bool = False
    goes_on: bool = False
    calls: Callable[[], CallParser] | None = None
    special: bool = False
    include_stop: bool = False
    nothing: bool = False


PLAIN = AnswerRules()


class Generation:
    """An async context: leaving it cancels what still runs. `next` gives text as it comes, None at the end."""

    def __init__(
        self,
        engine: Engine,
        prepared: Prepared,
        sampling: Sampling,
        stops: Sequence[str],
        metrics: PodMetrics,
        on_start: Callable[[], None] = lambda: None,
        *,
        rules: AnswerRules = PLAIN,
        meter: RequestMeter | None = None,
        cache_salt: str = "",
        counts_prompt: bool = True,
    ) -> None:
        """`meter` is that of the request whose part this is; without one it is nobody's.

        `counts_prompt`: no other generation of the request counts the tokens of its prompt. `cache_salt` is
        the client's own: only requests of the same key and salt use each other's cached prompts.
        """
        self._cache_salt = cache_salt
        self.ended = False
        self.finish_reason: FinishReason | None = None
        self.completion_tokens = 0
        self.reasoning_tokens = 0
        self.media_items = prepared.media_items
        self._engine, self._sampling = engine, sampling
        self._prepared: Prepared | None = prepared
        self._prompt_tokens = len(prepared.ids)
        self._metrics = metrics
        self._meter = meter
        self._on_start: Callable[[], None] | None = on_start
        self._rules = rules
        self.counts_prompt = counts_prompt
        self._parser = rules.calls() if rules.calls is not None else None
        behind = prepared.ids if rules.raw or rules.goes_on else ()
        self._detokenizer = engine.detokenizer(behind, special=rules.special)
        reasons = "reasoning" in engine.capabilities.features and not rules.raw
        self._splitter = ThinkSplitter(prepared.thinking) if reasons else None
        self._stops = StopStrings(stops, include=rules.include_stop)
        self._logprobs: list[TokenLogprobs] = []  # of tokens whose text wasn't given out yet
        self._logprobs_sum = 0.0
        self._deltas: collections.deque[Delta] = collections.deque()
        self._news = asyncio.Event()
        self._error: ApiError | None = None
        self._ticket: Ticket | None = None
        self._first_token_at: float | None = None
        self._last_token_at: float | None = None
        self._counted = False
        self._is_first = False

    async def __aenter__(self) -> Self:
        if (prepared := self._prepared) is not None:
            self._prepared = None
            share = self._meter.share if self._meter is not None else EVERYBODY
            if self._meter is not None and self._meter.track is not None:
                self._meter.track.submitted(self._engine.counters)
            self._ticket = self._engine.submit(
                prepared, self._sampling, self.take, share, f"{share.key}\n{self._cache_salt}"
            )
            if self._meter is not None:
                self._is_first = not self._meter.has_generations
                self._meter.add(self)
                if self._meter.track is not None:
                    self._meter.track.tickets.append(self._ticket)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ticket is not None and self.finish_reason is None:
            self._engine.cancel(self._ticket)
            self._count_end("abort" if self._error is None else "error")

    @property
    def usage(self) -> Usage:
        # A ticket's prompt may have been replaced by one without media.
        prompt = len(self._ticket.prepared.ids) if self._ticket is not None else self._prompt_tokens
        return Usage(prompt, self.completion_tokens, prompt + self.completion_tokens)

    @property
    def cached_tokens(self) -> int:
        """Tokens of the prompt that an earlier request had computed."""
        return self._ticket.cached_tokens if self._ticket is not None else 0

    @property
    def prompt_ids(self) -> Sequence[int]:
        """The prompt that was computed."""
        return self._ticket.prepared.ids if self._ticket is not None else ()

    @property
    def prompt_logprobs(self) -> Sequence[TokenLogprobs | None]:
        """Of each token of the prompt, where they were asked for."""
        return (self._ticket.prompt_logprobs if self._ticket is not None else None) or ()

    @property
    def mean_logprob(self) -> float:
        """Of the answer's tokens, where logprobs were asked for: how likely the answer is for its length."""
        return self._logprobs_sum / max(1, self.completion_tokens)

    def token_bytes(self, token: int) -> bytes:
        """What one token stands for."""
        return self._engine.token_bytes(token)

    def text_of(self, ids: Sequence[int]) -> str:
        """The text of tokens."""
        return self._engine.text_of(ids)

    @property
    def started(self) -> bool:
        """Whether anything was computed for it."""
        return self._ticket is not None and (self._ticket.started_at is not None or self._ticket.compute_seconds > 0)

    @property
    def used(self) -> RequestUsage:
        """So far; all of it once it has `ended`."""
        usage = self.usage
        return RequestUsage(
            prompt_tokens=usage.prompt_tokens if self.counts_prompt else 0,
            completion_tokens=usage.completion_tokens,
            cached_tokens=self.cached_tokens if self.counts_prompt else 0,
            media=self.media_items if self.counts_prompt else 0,
            compute_seconds=self._ticket.compute_seconds if self._ticket is not None else 0.0,
        )

    @property
    def degraded(self) -> Degraded | None:
        """The rung of the memory ladder that the answer comes from."""
        return self._ticket.degraded if self._ticket is not None else None

    @property
    def stopped_by(self) -> str | None:
        """The stop string that ended the answer, if one did."""
        return self._stops.stopped_by

    @property
    def queue_seconds(self) -> float:
        """Time until the engine began to read the prompt."""
        ticket = self._ticket
        if ticket is None or ticket.started_at is None:
            return 0.0
        return ticket.started_at - ticket.submitted_at

    @property
    def ended_thinking(self) -> bool:
        """False if the tokens ran out inside the reasoning block, so that there is no answer."""
        return self._splitter is None or not self._splitter.thinking

    def take(self, event: TokenEvent) -> None:
        """An event of the engine, on the event loop."""
        if event.finish is not None:
            self.ended = True
            event.ticket.sink = _unheard  # which is this, whose ticket it is: a cycle for each request
        self._take(event)
        if self.ended and self._meter is not None:
            self._meter.settle()

    def _take(self, event: TokenEvent) -> None:
        if self.finish_reason is not None or self._error is not None:
            return
        if self._on_start is not None:
            self._on_start()
            self._on_start = None
        if event.error is not None:
            self._error = api_error(event.error)
        elif event.finish == "cancelled":
            self._error = ApiError("draining", "This model is shutting down.", retry_after=5)
        elif event.token is not None:
            self._take_token(event)
        elif event.finish is not None:
            self._end(event)
        self._news.set()

    async def next(self) -> Delta | None:
        """New text; None when the answer is complete. ApiError if the model failed."""
        while not self._deltas:
            if self._error is not None:
                raise self._error
            if self.finish_reason is not None:
                return None
            self._news.clear()
            await self._news.wait()
        delta = self._deltas.popleft()
        if self._deltas:  # this consumer is slower than the engine: one piece of text instead of many
            rest = [delta, *self._deltas]
            self._deltas.clear()
            delta = joined(rest)
        return delta

    async def whole(self) -> Delta:
        """The complete answer."""
        deltas = []
        while (delta := await self.next()) is not None:
            deltas.append(delta)
        return joined(deltas)

    def _take_token(self, event: TokenEvent) -> None:
        self._observe_token()
        if self._rules.nothing:
            self.finish_reason = "length"
            self._count_end("length")
            return
        self.completion_tokens += 1
        is_part = event.finish != "stop"  # the token that ends an answer is no part of it
        if event.logprobs is not None and (is_part or self._rules.raw):
            self._logprobs.append(event.logprobs)
            self._logprobs_sum += event.logprobs.logprob
        if is_part or (self._rules.include_stop and event.token in self._sampling.stop_tokens):
            self._emit(self._detokenizer.push(event.token or 0) if event.text is None else event.text)
        if self._stops.stopped or (self._parser is not None and self._parser.full):
            self._give("", "", last=True)
            self.finish_reason = self._reason("stop")
            self._count_end("stop")
            if self._ticket is not None:
                self._engine.cancel(self._ticket)
        elif event.finish is not None:
            self._end(event)

    def _end(self, event: TokenEvent) -> None:
        if event.ticket.degraded == "simplified" and not self.completion_tokens:
            self._splitter = None  # this text is the server's own and holds no reasoning
            self._deltas.append(Delta(SIMPLIFIED))
        else:
            self._flush()
        length = event.finish == "length" and not self._stops.stopped
        self.finish_reason = "length" if length else self._reason("stop")
        self._count_end("length" if length else "stop")

    def _reason(self, reason: FinishReason) -> FinishReason:
        return "tool_calls" if self._parser is not None and self._parser.called else reason

    def _emit(self, text: str) -> None:
        if not text:
            return
        if self._splitter is None:
            self._append(Delta(text))
            return
        inside = self._splitter.thinking
        delta = self._splitter.push(text)
        if inside or self._splitter.thinking:
            self.reasoning_tokens = self.completion_tokens
        self._append(delta)

    def _flush(self) -> None:
        if self._splitter is not None:
            self._append(self._splitter.finish())
        self._give(self._stops.finish(), "", last=True)

    def _append(self, delta: Delta) -> None:
        self._give(self._stops.push(delta.content) if delta.content else "", delta.thinking)

    def _give(self, content: str, thinking: str, *, last: bool = False) -> None:
        """Text that is certain, on its way to the client."""
        calls: tuple[CallDelta, ...] = ()
        if self._parser is not None and (content or last):
            reads = [self._parser.push(content), *([self._parser.finish()] if last else [])]
            content = "".join(read.text for read in reads)
            calls = tuple(call for read in reads for call in read.calls)
        if content or thinking or calls or (last and self._logprobs):
            self._deltas.append(Delta(content, thinking, calls, tuple(self._logprobs)))
            self._logprobs.clear()

    def _observe_token(self) -> None:
        now = time.monotonic()
        counts = self._metrics.counts
        counts.generated += 1
        if self._last_token_at is not None:
            counts.inter_token.observe(now - self._last_token_at)
        elif (ticket := self._ticket) is not None:
            self._first_token_at = now
            began = self._meter.began if self._meter is not None and self._is_first else ticket.submitted_at
            counts.first_token.observe(now - began)
            counts.queue_wait.observe(self.queue_seconds)
            counts.prefill.observe(now - (ticket.started_at or ticket.submitted_at))
            self._note_waits(ticket, now)
        self._last_token_at = now
        if self._meter is not None and self._meter.track is not None:
            self._meter.track.token(now, self._engine.counters)

    def _count_end(self, ending: Ending) -> None:
        """Once, however it ended."""
        if self._counted:
            return
        self._counted = True
        counts = self._metrics.counts
        counts.endings[ending] += 1
        counts.prompt_tokens.observe(self.usage.prompt_tokens)
        counts.generation_tokens.observe(self.completion_tokens)
        if self._first_token_at is not None and self._last_token_at is not None:
            counts.decode.observe(self._last_token_at - self._first_token_at)

    def _note_waits(self, ticket: Ticket, now: float) -> None:
        """What the first token waited for."""
        seconds = dict(ticket.waits.seconds)
        if self._meter is not None:
            before = self._meter.waits.seconds
            self._meter.waits.seconds = {}  # of the first generation of several
            seconds = {**before, **seconds}
            if self._meter.track is not None and not self._meter.track.waits:
                self._meter.track.waits = {str(cause): waited for cause, waited in seconds.items()}
        for cause, waited in seconds.items():
            self._metrics.wait.labels(cause).inc(max(0.0, waited))
        if log.isEnabledFor(logging.DEBUG):
            log.debug(
                "request %s of key %r: first token after %.4f s, waits %s",
                self._meter.request_id if self._meter is not None else "-", ticket.share.key,
                now - ticket.submitted_at, " ".join(f"{cause}={waited:.4f}" for cause, waited in seconds.items()),
            )  # fmt: skip


def _unheard(_: TokenEvent) -> None:
    """After the last event there is none."""
