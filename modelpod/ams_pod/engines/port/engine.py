"""What the pod's HTTP side calls."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from ams_common.lifecycle import Phase
from ams_common.pod_settings import ServeSettings

from ams_pod.engines.port.describing import (
    AdapterView,
    Capabilities,
    EngineCounters,
    EngineHealth,
    MemoryUsage,
    ModelInfo,
    Occupancy,
)
from ams_pod.engines.port.requests import (
    PLAIN_CHAT,
    ChatOptions,
    Constraint,
    Prepared,
    Publish,
    Sampling,
    Sink,
    Ticket,
)
from ams_pod.shares import EVERYBODY, Share

ReportPhase = Callable[[Phase, float | None], None]
"""How far loading is: the phase and its percentage, where one is known. May be called from any thread."""


class Detokenizer(Protocol):
    """Text of one request, token by token; never splits a character."""

    def push(self, token: int) -> str:
        """The text that this token completes; empty while a character is incomplete."""


class Engine(Protocol):
    """A loaded model. `run` has a thread of its own; `prepare_*` may be called in any thread; the rest never blocks.

    To drain, the pod submits nothing more, waits for what runs as long as it is allowed to, and calls `stop`.
    """

    @property
    def info(self) -> ModelInfo: ...

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def counters(self) -> EngineCounters: ...

    def prepare_chat(self, messages: Sequence[dict[str, Any]], options: ChatOptions = PLAIN_CHAT) -> Prepared:
        """Messages of {"role", "content"} through the model's chat template. EngineRefusal if it doesn't take them.

        A content is a text or a list of parts: {"type": "text", "text": ...} and those that
        `ams_pod.media.items.content_part` makes. A message of the assistant may have "tool_calls", as OpenAI's API
        has them but with "arguments" as an object, and "reasoning_content"; one of the role "tool" has "tool_call_id"
        and, where it is known, "name".
        """

    def prepare_text(self, text: str) -> Prepared:
        """A raw prompt, for completions. EngineRefusal for a model that takes none."""

    def prepare_ids(self, ids: Sequence[int]) -> Prepared:
        """A prompt of token ids. EngineRefusal if one is outside the vocabulary."""

    def prepare_pair(self, query: str, text: str) -> Prepared:
        """Two texts whose score is asked for. EngineRefusal for a model that doesn't compare texts."""

    def prepare_constraint(self, constraint: Constraint) -> Any:
        """What `Sampling.constraint` takes. EngineRefusal for one that can't be followed, or would cost too much."""

    def detokenizer(self, after: Sequence[int] = (), *, special: bool = False) -> Detokenizer:
        """Of one answer. `after` are the ids of a raw prompt that it goes on from, as its text then does too.

        `special`: the model's special tokens give their text as well; else they give none.
        """

    def token_bytes(self, token: int) -> bytes:
        """What one token stands for, which may be half a character; the text of a special token."""

    def text_of(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens included. EngineRefusal if one is outside the vocabulary."""

    def submit(
        self, prepared: Prepared, sampling: Sampling, sink: Sink, share: Share = EVERYBODY, cache_salt: str = ""
    ) -> Ticket:
        """Queue a request of a key; its events arrive through `publish`. EngineRefusal if it can never be computed.

        What it computes of its prompt is used again for prompts that begin alike, of requests with the same salt.
        """

    def cancel(self, ticket: Ticket) -> None:
        """Forget a request before the next step; it then ends with `cancelled`. Nothing happens if it ended before."""

    def occupancy(self) -> Occupancy: ...

    def memory(self) -> MemoryUsage: ...

    def free_memory(self) -> None:
        """Ask for caches to be dropped that no running request needs."""

    def run(self) -> None:
        """Compute until `stop`; requests that are left then end with `cancelled`."""

    def stop(self) -> None: ...


@runtime_checkable
class Supervised(Protocol):
    """An engine that computes in a process of its own, which may end and be started again while it is open."""

    @property
    def health(self) -> EngineHealth: ...

    def begins(self) -> None:
        """Whoever starts the engine says that it has started it anew. From any thread; at once."""


@runtime_checkable
class ChangesAdapters(Protocol):
    """An engine whose LoRA adapters may come and go while it is open."""

    @property
    def adapters(self) -> Sequence[AdapterView] | None:
        """In the order in which they are asked for; None where they are those of the settings, from start to end."""


class Opener(Protocol):
    """Loads the model of a folder and puts an engine around it; called in the thread that `run` will have."""

    def __call__(
        self,
        folder: Path,
        settings: ServeSettings,
        publish: Publish,
        report: ReportPhase,
        loop: Any,
    ) -> Engine:
        """`loop` is the event loop of those who ask the engine, in another thread, and none of the port's business: an
        engine that computes elsewhere may live on it too, as streams wait for each turn of two threads at the
        interpreter. LoadFailed if the model can't be served."""
