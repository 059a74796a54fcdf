"""A loaded encoder with its core: an `Engine` that makes vectors or scores, and no text."""

from collections.abc import Sequence
from typing import Any

from ams_pod.engines.builtin.embedding.core import EmbeddingCore
from ams_pod.engines.builtin.memory import device_memory
from ams_pod.engines.port import (
    PLAIN_CHAT,
    Capabilities,
    ChatOptions,
    Constraint,
    EngineCounters,
    MemoryUsage,
    ModelInfo,
    Occupancy,
    Prepared,
    Sampling,
    Sink,
    Ticket,
)
from ams_pod.engines.prompts.embedding import EmbeddingPrompts
from ams_pod.engines.prompts.text import StreamDetokenizer
from ams_pod.shares import EVERYBODY, Share


class EmbeddingEngine:
    """Texts through `prompts`, batches through `core`."""

    def __init__(
        self, info: ModelInfo, capabilities: Capabilities, prompts: EmbeddingPrompts, core: EmbeddingCore
    ) -> None:
        self.info, self.capabilities, self.core = info, capabilities, core
        self._prompts = prompts

    @property
    def counters(self) -> EngineCounters:
        return self.core.counters

    def prepare_chat(self, messages: Sequence[dict[str, Any]], options: ChatOptions = PLAIN_CHAT) -> Prepared:
        return self._prompts.chat(messages, options)

    def prepare_text(self, text: str) -> Prepared:
        return self._prompts.text(text)

    def prepare_ids(self, ids: Sequence[int]) -> Prepared:
        return self._prompts.ids(ids)

    def prepare_pair(self, query: str, text: str) -> Prepared:
        ids, kinds = self._prompts.pair(query, text)
        return Prepared(ids, media=kinds if any(kinds) else None)

    def prepare_constraint(self, constraint: Constraint) -> Any:
        self._prompts.refuse()

    def detokenizer(self, after: Sequence[int] = (), *, special: bool = False) -> StreamDetokenizer:
        return self._prompts.detokenizer(after, special=special)

    def token_bytes(self, token: int) -> bytes:
        return self._prompts.token_bytes(token)

    def text_of(self, ids: Sequence[int]) -> str:
        return self._prompts.text_of(ids)

    def submit(
        self, prepared: Prepared, sampling: Sampling, sink: Sink, share: Share = EVERYBODY, cache_salt: str = ""
    ) -> Ticket:
        return self.core.submit(prepared, sampling, sink, share)

    def cancel(self, ticket: Ticket) -> None:
        ticket.cancelled = True

    def occupancy(self) -> Occupancy:
        return self.core.occupancy()

    def memory(self) -> MemoryUsage:
        return device_memory.usage(self.info.device)

    def free_memory(self) -> None:
        self.core.free_memory()

    def run(self) -> None:
        self.core.run()

    def stop(self) -> None:
        self.core.stop()
