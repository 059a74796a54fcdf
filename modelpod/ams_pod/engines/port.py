"""The port: what the pod's HTTP side needs of an engine, and all that it knows of one. No torch, no HTTP here.

An engine loads one model and computes for many requests at once. `ams_pod.engines.registry` opens one by its name.

    EngineError
    ├── LoadFailed      the model can't be served: the pod ends
    └── EngineRefusal   a request can't be computed: it ends, others go on
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from ams_common.families import Modality
from ams_common.lifecycle import Phase
from ams_common.pod_settings import ServeSettings
from ams_common.reasons import Reason

from ams_pod.media.sizing import NO_RULES, Sizes
from ams_pod.shares import EVERYBODY, Share
from ams_pod.waits import Waits

Finish = Literal["stop", "length", "cancelled", "failed"]
Degraded = Literal["cpu", "text-only", "simplified"]
Feature = Literal["reasoning", "raw-prompts", "single-question"]
"""`reasoning`: answers may begin with a <think> block. `raw-prompts`: texts and token ids without a chat template.
`single-question`: one message of a user and nothing before it."""

RefusalKind = Literal[
    "invalid-prompt", "missing-prompt", "unsupported-modality", "context-length-exceeded", "out-of-memory"
]

ReportPhase = Callable[[Phase, float | None], None]
"""How far loading is: the phase and its percentage, where one is known. May be called from any thread."""


class EngineError(Exception):
    """What an engine raises on purpose; the text is a sentence for whoever reads the answer or the status."""


class LoadFailed(EngineError):
    """The model can't be served; `reason` is that of the condition, the text a sentence for its owner."""

    def __init__(self, message: str, reason: Reason = Reason.LOAD_FAILED) -> None:
        super().__init__(message)
        self.reason = reason


class EngineRefusal(EngineError):
    """A request can't be computed. `part` is the part of it that is at fault; `limit` and `given` are the numbers."""

    def __init__(
        self,
        kind: RefusalKind,
        message: str,
        *,
        part: Literal["prompt", "messages", "image"] | None = None,
        limit: int | None = None,
        given: int | None = None,
    ) -> None:
        super().__init__(message)
        self.kind: RefusalKind = kind
        self.part = part
        self.limit, self.given = limit, given


_FEWER_MEDIA = (
    " Send fewer or smaller media, lower max_pixels or nframes; for all requests, limits.imagePixels, videoFrames and"
    " contextTokens of the model."
)


def context_exceeded(
    limit: int,
    given: int,
    *,
    at_least: bool = False,
    media: int = 0,
    part: Literal["prompt", "messages"] | None = None,
) -> EngineRefusal:
    """A prompt of `given` tokens, or at least as many, `media` of them for media, against a context of `limit`.

    The sentence has the words by which LiteLLM, LangChain and Pydantic AI know such a prompt: a client's error may hold
    no more than this.
    """
    tokens = f"more than {given} tokens" if at_least else f"{given} tokens"
    of_media = f", {media} of them for its media," if media else ""
    hint = _FEWER_MEDIA if media else ""
    answer = " and an answer" if given == limit else ""
    return EngineRefusal(
        "context-length-exceeded",
        f"This model's maximum context length is {limit} tokens. The prompt is too long: "
        f"with {tokens}{of_media}{answer} it exceeds the context window.{hint}",
        part=part,
        limit=limit,
        given=given,
    )


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen. `temperature` 0 is greedy; `top_k` 0, `top_p` 1 and `min_p` 0 keep all tokens."""

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0  # of tokens in prompt and answer; 1 changes nothing
    presence_penalty: float = 0.0  # of tokens in the answer
    frequency_penalty: float = 0.0  # of tokens in the answer, for each time
    logit_bias: tuple[tuple[int, float], ...] = ()  # (token, what is added to its logit); unknown ones do nothing
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
class Capabilities:
    """What an engine can do with its model. `audio_rate` is in Hz, of the audio that `prepare_chat` takes.

    `sizes` are the rules by which pictures are scaled for it before it gets them.
    """

    modalities: tuple[Modality, ...]
    features: frozenset[Feature] = frozenset({"raw-prompts"})
    audio_rate: int = 16_000
    sizes: Sizes = NO_RULES


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a loaded model is and holds. `engine` names what computes, as people should see it."""

    architecture: str
    family: str
    device: str
    precision: str
    parameters: int
    weights_bytes: int
    context_tokens: int
    cache_bytes_per_token: int
    concurrent_requests: int
    engine: str
    defaults: SamplingDefaults = field(default_factory=SamplingDefaults)
    quantization: str = "none"
    quantization_reason: str = ""
    vocabulary: int | None = None  # tokens that it can choose from, where the engine tells


@dataclass(frozen=True, slots=True)
class Prepared:
    """A prompt as token ids, made on the CPU side. `thinking` is true if the prompt itself opened a <think> block.

    `ids` holds one id for each position, those of media included. `media` is the engine's own: what its towers take.
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
    """One submitted request. `sink` takes its events, on the pod's event loop; the engine only carries it along.

    Times are monotonic seconds. `rungs` are all steps of the memory ladder that were tried, `degraded` the one that
    the answer comes from. `set_asides` is how often it made way for other keys. `compute_seconds` is its part of the
    time that the engine computed; it may still grow until the ticket's last event, and is complete by then, however
    the request ended.
    """

    prepared: Prepared
    sampling: Sampling
    sink: "Sink"
    submitted_at: float
    share: Share = EVERYBODY
    compute_seconds: float = 0.0
    waits: Waits = field(init=False)
    cancelled: bool = False  # read by the engine before each step
    started_at: float | None = None  # when the first token of the prompt was computed
    degraded: Degraded | None = None
    rungs: tuple[str, ...] = ()
    first_rung_at: float | None = None
    set_asides: int = 0

    def __post_init__(self) -> None:
        self.waits = Waits(self.submitted_at)


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """One token of one request, or its end. `token` is None where a request ends without a further token.

    `text` is what the token stands for, of an engine that gets texts instead of ids, such as one that asks another
    server; where it is None, the engine's detokenizer makes it. A request whose ticket is degraded to `simplified` ends
    with `stop` and no token: the submitter has the text.
    """

    ticket: Ticket
    token: int | None
    finish: Finish | None = None
    error: BaseException | None = None
    text: str | None = None


Sink = Callable[[TokenEvent], None]

Publish = Callable[[list[TokenEvent]], None]
"""Takes the events of one step. An engine may call it from any of its threads."""


@dataclass(frozen=True, slots=True)
class Occupancy:
    """Requests running and waiting, and cached tokens against the room for them."""

    running: int = 0
    waiting: int = 0
    cache_tokens: int = 0
    cache_capacity_tokens: int = 0


@dataclass(slots=True)
class KeyWork:
    """What was computed for one key's requests since start: tokens, and seconds of steps and towers."""

    prompt_tokens: int = 0
    prompt_seconds: float = 0.0
    answer_tokens: int = 0
    answer_seconds: float = 0.0
    media_seconds: float = 0.0


MOST_KEYS = 256
"""Of which work is told apart; that of further keys counts as one key's, called `OTHER_KEYS`."""

OTHER_KEYS = "others"


@dataclass(slots=True)
class EngineCounters:
    """Totals since start. `busy_seconds` is time inside steps.

    `tower_calls` took `tower_seconds` beside them; requests that a copy of the model took over took `copy_seconds`
    there. All three together are what tickets are told as their `compute_seconds`. `out_of_memory` counts by stage and
    by what was done about it. `set_aside` rows made way for other keys, and were computed again. `by_key` is what was
    computed for whom; an engine that doesn't share out its steps leaves it empty.
    """

    steps: int = 0
    prefill_tokens: int = 0
    decode_tokens: int = 0
    busy_seconds: float = 0.0
    tower_calls: int = 0
    tower_seconds: float = 0.0
    copy_seconds: float = 0.0
    set_aside: int = 0
    out_of_memory: dict[tuple[str, str], int] = field(default_factory=dict)
    by_key: dict[str, KeyWork] = field(default_factory=dict)

    def work_of(self, key: str) -> KeyWork:
        """What was computed for this key, to be added to."""
        work = self.by_key.get(key)
        if work is None:
            if len(self.by_key) >= MOST_KEYS:
                key = OTHER_KEYS
            work = self.by_key.setdefault(key, KeyWork())
        return work

    @property
    def compute_seconds(self) -> float:
        return self.busy_seconds + self.tower_seconds + self.copy_seconds


@dataclass(frozen=True, slots=True)
class GpuMemory:
    """Bytes, sums over the GPUs; `least_free_bytes` is what the fullest one has left."""

    total_bytes: int
    allocated_bytes: int
    reserved_bytes: int
    free_bytes: int
    least_free_bytes: int


@dataclass(frozen=True, slots=True)
class MemoryUsage:
    """Bytes of the machine, or of the container, and of this process. `gpu` is None where the model runs on a CPU."""

    device: str
    ram_total_bytes: int
    ram_available_bytes: int
    process_bytes: int
    gpu: GpuMemory | None = None


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

    def prepare_chat(self, messages: Sequence[dict[str, Any]]) -> Prepared:
        """Messages of {"role", "content"} through the model's chat template. EngineRefusal if it doesn't take them.

        A content is a text or a list of parts: {"type": "text", "text": ...} and those that
        `ams_pod.media.items.content_part` makes.
        """

    def prepare_text(self, text: str) -> Prepared:
        """A raw prompt, for completions. EngineRefusal for a model that takes none."""

    def prepare_ids(self, ids: Sequence[int]) -> Prepared:
        """A prompt of token ids. EngineRefusal if one is outside the vocabulary."""

    def detokenizer(self, after: Sequence[int] = ()) -> Detokenizer:
        """Of one answer. `after` are the ids of a raw prompt that it goes on from, as its text then does too."""

    def submit(self, prepared: Prepared, sampling: Sampling, sink: Sink, share: Share = EVERYBODY) -> Ticket:
        """Queue a request of a key; its events arrive through `publish`. EngineRefusal if it can never be computed."""

    def cancel(self, ticket: Ticket) -> None:
        """Forget a request before the next step; it then ends with `cancelled`. Nothing happens if it ended before."""

    def occupancy(self) -> Occupancy: ...

    def memory(self) -> MemoryUsage: ...

    def free_memory(self) -> None:
        """Ask for caches to be dropped that no running request needs."""

    def run(self) -> None:
        """Compute until `stop`; requests that are left then end with `cancelled`."""

    def stop(self) -> None: ...


class Opener(Protocol):
    """Loads the model of a folder and puts an engine around it; called in the thread that `run` will have."""

    def __call__(self, folder: Path, settings: ServeSettings, publish: Publish, report: ReportPhase) -> Engine:
        """LoadFailed if the model can't be served."""
