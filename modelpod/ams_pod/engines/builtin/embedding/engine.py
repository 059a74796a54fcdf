"""A loaded encoder with its core: an `Engine` that makes vectors or scores, and no text."""

from collections.abc import Sequence
from typing import Any, NoReturn

from tokenizers import Tokenizer

from ams_pod.engines.builtin.embedding.core import EmbeddingCore
from ams_pod.engines.builtin.memory import device_memory
from ams_pod.engines.port import (
    PLAIN_CHAT,
    Capabilities,
    ChatOptions,
    Constraint,
    EngineCounters,
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
from ams_pod.engines.prompts.text import StreamDetokenizer
from ams_pod.engines.prompts.token_bytes import TokenBytes
from ams_pod.shares import EVERYBODY, Share


class EmbeddingEngine:
    """`tokenizer` is that of its texts; with `lower_case` they are made so first."""

    def __init__(
        self,
        info: ModelInfo,
        capabilities: Capabilities,
        tokenizer: Tokenizer,
        core: EmbeddingCore,
        *,
        lower_case: bool = False,
    ) -> None:
        self.info, self.capabilities, self.core = info, capabilities, core
        self._tokenizer, self._lower_case = tokenizer, lower_case
        self._bytes = TokenBytes(tokenizer)

    @property
    def counters(self) -> EngineCounters:
        return self.core.counters

    def prepare_chat(self, messages: Sequence[dict[str, Any]], options: ChatOptions = PLAIN_CHAT) -> Prepared:
        self._refuse()

    def prepare_text(self, text: str) -> Prepared:
        return self._checked(self._tokenizer.encode(self._cased(text)))

    def prepare_ids(self, ids: Sequence[int]) -> Prepared:
        for index, token in enumerate(ids):
            if not 0 <= token < (self.info.vocabulary or 0):
                raise EngineRefusal(
                    "invalid-prompt",
                    f"input[{index}]: token id {token} is out of range (0 to {(self.info.vocabulary or 1) - 1}).",
                    part="prompt",
                )
        if len(ids) > self.info.context_tokens:
            raise context_exceeded(self.info.context_tokens, len(ids))
        return Prepared(list(ids))

    def prepare_pair(self, query: str, text: str) -> Prepared:
        if "rerank" not in self.capabilities.features:
            raise EngineRefusal("unsupported", "This model doesn't compare texts.")
        return self._checked(self._tokenizer.encode(self._cased(query), self._cased(text)))

    def prepare_constraint(self, constraint: Constraint) -> Any:
        self._refuse()

    def detokenizer(self, after: Sequence[int] = (), *, special: bool = False) -> StreamDetokenizer:
        return StreamDetokenizer(self._tokenizer, after, special=special)

    def token_bytes(self, token: int) -> bytes:
        return self._bytes.of(token)

    def text_of(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(self.prepare_ids(ids).ids), skip_special_tokens=False)
        return text

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

    def _cased(self, text: str) -> str:
        return text.lower() if self._lower_case else text

    def _checked(self, encoding: Any) -> Prepared:
        ids = encoding.ids
        if len(ids) > self.info.context_tokens:
            raise context_exceeded(self.info.context_tokens, len(ids))
        kinds = encoding.type_ids
        return Prepared(ids, media=kinds if any(kinds) else None)

    def _refuse(self) -> NoReturn:
        raise EngineRefusal("unsupported", "This model makes embeddings, and no text; use /v1/embeddings.")
