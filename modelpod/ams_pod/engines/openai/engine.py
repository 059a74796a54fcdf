"""An engine of another make as an `Engine` of the port: our prompts, its tokens."""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from ams_pod.engines.openai import gbnf
from ams_pod.engines.openai.core import Core, no_adapter
from ams_pod.engines.openai.dialects.base import Dialect
from ams_pod.engines.openai.loops import is_running, run_on
from ams_pod.engines.openai.machine import memory_usage
from ams_pod.engines.openai.media_chat import count_media, has_media, media_chat
from ams_pod.engines.openai.pieces import Held, Written
from ams_pod.engines.openai.supervisor import Supervisor
from ams_pod.engines.openai.trying import PromptForm
from ams_pod.engines.port import (
    PLAIN_CHAT,
    AdapterView,
    Capabilities,
    ChatOptions,
    Constraint,
    EngineCounters,
    EngineHealth,
    EngineRefusal,
    MemoryUsage,
    ModelInfo,
    Occupancy,
    Prepared,
    Sampling,
    Sink,
    Ticket,
    context_exceeded,
)
from ams_pod.engines.prompts.embedding import EmbeddingPrompts
from ams_pod.engines.prompts.text import StreamDetokenizer, TextPrompts, unsupported_modality
from ams_pod.shares import EVERYBODY, Share


class OtherEngine:
    """Lives on the loop of those who ask it, where what they call happens at once; other threads hand over to it."""

    _least_answer: ClassVar[int] = 1  # tokens that a prompt has to leave of the context

    def __init__(
        self,
        info: ModelInfo,
        capabilities: Capabilities,
        prompts: TextPrompts | EmbeddingPrompts,
        dialect: Dialect,
        core: Core,
        supervisor: Supervisor,
        loop: asyncio.AbstractEventLoop,
        form: PromptForm = PromptForm(),  # noqa: B008
    ) -> None:
        self._form = form
        self._info, self.capabilities = info, capabilities
        self._prompts, self._dialect = prompts, dialect
        self._core, self._supervisor, self._loop = core, supervisor, loop
        self._described = supervisor.state.facts
        self._stopping = asyncio.Event()
        self._closed = False

    @property
    def info(self) -> ModelInfo:
        """An engine that was started again may be of another version."""
        facts = self._supervisor.state.facts
        if facts is not self._described:
            self._described, self._info = facts, replace(self._info, engine=self._dialect.label(facts))
        return self._info

    @property
    def counters(self) -> EngineCounters:
        return self._core.counters

    @property
    def health(self) -> EngineHealth:
        return self._supervisor.health

    @property
    def adapters(self) -> Sequence[AdapterView] | None:
        return self._supervisor.adapters.views if self._supervisor.adapters is not None else None

    def begins(self) -> None:
        self._supervisor.begins()

    def prepare_chat(self, messages: Sequence[dict[str, Any]], options: ChatOptions = PLAIN_CHAT) -> Prepared:
        if not has_media(messages):
            return self._written(self._prompts.chat(messages, options))
        for message in messages:
            for part in () if isinstance(message["content"], str) else message["content"]:
                if part["type"] != "text" and part["type"] not in self.capabilities.modalities:
                    raise unsupported_modality(part["type"], self.capabilities.modalities)
        texts = [
            {**message, "content": message["content"] if isinstance(message["content"], str) else _texts_of(message)}
            for message in messages
        ]
        text = self._prompts.chat(texts, options)
        chat = media_chat(*self._prompts.taken_apart(messages, options))
        return Prepared(text.ids, thinking=text.thinking, media=chat, media_items=count_media(messages))

    def prepare_text(self, text: str) -> Prepared:
        return self._written(self._prompts.text(text))

    def prepare_ids(self, ids: Sequence[int]) -> Prepared:
        return self._written(self._prompts.ids(ids))

    def _written(self, prepared: Prepared) -> Prepared:
        """A prompt as the engine takes it."""
        if self._form.kind == "ids" or not isinstance(self._prompts, TextPrompts):
            return prepared
        return replace(prepared, media=Written(self._prompts.written(prepared.ids[self._form.drops :])))

    def prepare_pair(self, query: str, text: str) -> Prepared:
        raise EngineRefusal("unsupported", "This model doesn't compare texts.")

    def prepare_constraint(self, constraint: Constraint) -> Held:
        if constraint.kind == "lark" and self._dialect.takes_gbnf and not gbnf.is_gbnf(constraint.value):
            try:
                constraint = replace(constraint, value=gbnf.from_lark(constraint.value, self._token_text))
            except gbnf.Unwritable as error:
                raise self._dialect.cannot_hold(constraint, f": it has no words for {error}") from None
        return self._dialect.held(constraint)

    def _token_text(self, token: int) -> str:
        return self.token_bytes(token).decode("utf-8", "replace")

    def detokenizer(self, after: Sequence[int] = (), *, special: bool = False) -> StreamDetokenizer:
        return self._prompts.detokenizer(after, special=special)

    def token_bytes(self, token: int) -> bytes:
        return self._prompts.token_bytes(token)

    def text_of(self, ids: Sequence[int]) -> str:
        return self._prompts.text_of(ids)

    def submit(
        self, prepared: Prepared, sampling: Sampling, sink: Sink, share: Share = EVERYBODY, cache_salt: str = ""
    ) -> Ticket:
        """Queue a request, its answer as long as the context allows. EngineRefusal for what the engine can't do."""
        if (refusal := self._dialect.refusal(sampling)) is not None:
            raise refusal
        if sampling.adapter and sampling.adapter not in self._core.terms.adapters:
            raise no_adapter(sampling.adapter)
        room = self.info.context_tokens - len(prepared.ids)
        if room < self._least_answer:
            raise context_exceeded(self.info.context_tokens, len(prepared.ids))
        if sampling.max_new_tokens > room:
            sampling = replace(sampling, max_new_tokens=room)
        ticket = Ticket(prepared, sampling, sink, time.monotonic(), share, cache_salt)
        self._hand_over(self._core.add, ticket)
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        ticket.cancelled = True
        self._hand_over(self._core.cancel, ticket)

    def _hand_over(self, function: Any, ticket: Ticket) -> None:
        if self._closed:
            return
        if is_running(self._loop):
            function(ticket)
        else:
            with contextlib.suppress(RuntimeError):  # it was closed meanwhile
                self._loop.call_soon_threadsafe(function, ticket)

    def occupancy(self) -> Occupancy:
        """What runs and waits, here and, where it tells, in the engine.

        Engines that tell nothing of their cache hold at least the tokens of what runs.
        """
        core, figures = self._core, self._supervisor.state.figures
        capacity = int(figures.cache_capacity or self.info.context_tokens * self.info.concurrent_requests)
        behind = min(int(figures.waiting or 0), core.running)
        if figures.cache_tokens is not None:
            held = int(figures.cache_tokens)
        elif figures.cache_used is not None:
            held = int(figures.cache_used * capacity)
        else:
            held = core.cache_tokens
        return Occupancy(core.running - behind, core.waiting + behind, min(held, capacity), capacity)

    def memory(self) -> MemoryUsage:
        state = self._supervisor.state
        return memory_usage(self.info.device, state.resident_bytes or int(state.figures.process_bytes or 0))

    def free_memory(self) -> None:
        """The engine's caches are its own."""

    def run(self) -> None:
        run_on(self._loop, self._run())

    async def _run(self) -> None:
        watching = self._loop.create_task(self._supervisor.watch(self._core))
        stopping = self._loop.create_task(self._stopping.wait())
        try:
            await asyncio.wait({watching, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                watching.result()  # raises what ended it
        finally:
            self._core.close()
            for task in (watching, stopping):
                task.cancel()
            await asyncio.gather(watching, stopping, return_exceptions=True)
            await self._supervisor.close()
            self._closed = True

    def stop(self) -> None:
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._stopping.set)


def _texts_of(message: dict[str, Any]) -> list[dict[str, Any]]:
    return [part for part in message["content"] if part["type"] == "text"]
