"""What `ams_pod.serve` sees of the runtime. No torch here: another engine can stand behind the same types."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from ams_common.lifecycle import Phase

Finish = Literal["stop", "length", "cancelled", "failed"]
ReportPhase = Callable[[Phase, float | None], None]
Degraded = Literal["cpu", "text-only", "simplified"]


class InsufficientMemory(Exception):
    """A request ended because memory ran out and no fallback was left; the text says what it needed."""


class LoadFailed(Exception):
    """The model can't be served; `reason` is a condition reason, the text a sentence for its owner."""

    def __init__(self, message: str, reason: str = "LoadFailed") -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen. `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 keep all tokens."""

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int | None = None
    ignore_eos: bool = False


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """What the model's authors recommend (generation_config.json); None where they are silent."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a loaded model is and holds."""

    architecture: str
    family: str
    modalities: tuple[str, ...]
    device: str
    precision: str
    parameters: int
    weights_bytes: int
    context_tokens: int
    cache_bytes_per_token: int
    concurrent_requests: int
    engine: str
    thinks: bool
    defaults: SamplingDefaults = field(default_factory=SamplingDefaults)
    quantization: str = "none"
    quantization_reason: str = ""
    audio_rate: int = 16_000  # Hz, of the audio that `prepare_chat` takes


@dataclass(frozen=True, slots=True)
class Prepared:
    """A prompt as token ids, made on the CPU side. `thinking` is true if the prompt itself opened a <think> block.

    `ids` holds one id for each position, those of media included. `media` is the family's own: what its towers take.
    `media_items` is how many images, clips and videos there are; `text_only` makes the same prompt without them, None
    where that makes no sense. It costs little, and any thread may call it.
    """

    ids: Sequence[int]
    thinking: bool = False
    media: Any = None
    media_items: int = 0
    text_only: "Callable[[], Prepared] | None" = None


@dataclass(slots=True, eq=False)
class Ticket:
    """One submitted request. The compute thread reads `cancelled` before each step.

    `sink` belongs to the submitter: the engine only carries it along.
    """

    prepared: Prepared
    sampling: Sampling
    sink: Any
    submitted_at: float
    cancelled: bool = False
    started_at: float | None = None  # when the first token of the prompt was computed
    degraded: Degraded | None = None  # the rung of the memory ladder that this answer comes from
    rungs: tuple[str, ...] = ()  # all that were tried

    def cancel(self) -> None:
        """Ask the engine to forget this request; it does so before its next step."""
        self.cancelled = True


@dataclass(frozen=True, slots=True)
class Event:
    """One token of one request, or its end. `token` is None where a request ends without a further token.

    A request whose ticket is degraded to `simplified` ends with `stop` and no token: the submitter has the words.
    """

    ticket: Ticket
    token: int | None
    finish: Finish | None = None
    error: BaseException | None = None


Publish = Callable[[list[Event]], None]


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """Requests running, waiting, and cached tokens against the room for them."""

    running: int
    waiting: int
    cache_tokens: int
    cache_capacity_tokens: int


@dataclass(slots=True)
class EngineCounters:
    """Totals since start, written by the compute thread alone. `busy_seconds` is time inside steps.

    `tower_calls` took `tower_seconds` beside them. `out_of_memory` counts by stage and by what was done about it.
    """

    steps: int = 0
    prefill_tokens: int = 0
    decode_tokens: int = 0
    busy_seconds: float = 0.0
    tower_calls: int = 0
    tower_seconds: float = 0.0
    out_of_memory: dict[tuple[str, str], int] = field(default_factory=dict)


class Detokenizer(Protocol):
    """Text of one request, token by token; never splits a character."""

    def push(self, token: int) -> str:
        """The text that this token completes; empty while a character is incomplete."""


class Runtime(Protocol):
    """A loaded model. `run` is the compute thread's; `prepare_*` may run in any; the rest never blocks."""

    info: ModelInfo
    counters: EngineCounters

    def prepare_chat(self, messages: Sequence[dict[str, Any]]) -> Prepared:
        """Messages of {"role", "content"} through the model's chat template.

        A content is a text or a list of parts: {"type": "text", "text": ...} and those of `ams_pod.media.items.part`.
        """

    def prepare_text(self, text: str) -> Prepared:
        """A raw prompt, for completions."""

    def prepare_ids(self, ids: Sequence[int]) -> Prepared:
        """A prompt of token ids. ApiError if one is outside the vocabulary."""

    def detokenizer(self) -> Detokenizer: ...

    def submit(self, prepared: Prepared, sampling: Sampling, sink: Any) -> Ticket: ...

    def load(self) -> EngineLoad: ...

    def memory(self) -> dict[str, Any]:
        """The fields of /admin/memory_status."""

    def free_memory(self) -> None:
        """Ask the compute thread to drop caches that no running request needs, before its next step."""

    def run(self) -> None:
        """Compute until `stop`; requests that are left then end with `cancelled`."""

    def stop(self) -> None: ...
