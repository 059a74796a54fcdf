"""What an engine says of itself and its model: what it can do, holds and has done."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from ams_common.families import Modality

from ams_pod.media.sizing import NO_RULES, Sizes

Feature = Literal[
    "reasoning", "raw-prompts", "single-question", "constraints", "logprobs", "tools", "embeddings", "rerank"
]
"""`reasoning`: answers may begin with a <think> block. `raw-prompts`: texts and token ids without a chat template.
`single-question`: one message of a user and nothing before it. `constraints`: answers can be held to a `Constraint`.
`logprobs`: those of answers, and of prompts. `tools`: the chat template takes tools. `embeddings` and `rerank`: it
makes vectors of texts, or scores of pairs of them, and nothing else."""


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
    prompts: Mapping[str, str] = field(default_factory=dict)  # put in front of texts, by what they are embedded for
    default_prompt: str | None = None


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
    embedding_size: int | None = None  # values of a vector, of a model that makes embeddings
    chat_template: str = ""  # the text of it, where the engine tells
    added_tokens: Mapping[str, int] = field(default_factory=dict)  # those that stand for a text of their own, by it
    special_tokens: frozenset[str] = frozenset()  # of these, which give no text unless they are asked to


@dataclass(frozen=True, slots=True)
class Occupancy:
    """Requests running and waiting, and their cached tokens against the room for them.

    `prefix_tokens` are kept beside them of requests that ended.
    """

    running: int = 0
    waiting: int = 0
    cache_tokens: int = 0
    cache_capacity_tokens: int = 0
    prefix_tokens: int = 0


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
    by what was done about it. `set_aside` rows made way for other keys, `preempted` ones left as the cache was full;
    both were computed again. `by_key` is what was computed for whom; an engine that doesn't share out its steps leaves
    it empty. Of the tokens of prompts that the cache of prefixes was asked for, `prefix_queries`, it had `prefix_hits`.
    Of `drafted_tokens`, which were guessed and verified, `accepted_tokens` were right, and took no step of their own.
    """

    steps: int = 0
    prefill_tokens: int = 0
    decode_tokens: int = 0
    busy_seconds: float = 0.0
    tower_calls: int = 0
    tower_seconds: float = 0.0
    copy_seconds: float = 0.0
    set_aside: int = 0
    preempted: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
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


AdapterStage = Literal["loading", "ready", "failed"]


@dataclass(frozen=True, slots=True)
class AdapterView:
    """A LoRA adapter of an engine that loads them while it runs, as it is asked for by `asked`.

    `ready`: it is served as it is asked for. `failed`: it can't be, and `reason` and `message` say why. `version` tells
    the bytes of the one that requests get, which may be that from before; empty where they get none. `files` and
    `sha256` are the lock of what is asked for, where its files were hashed.
    """

    name: str
    asked: str
    stage: AdapterStage
    version: str = ""
    reason: str = ""
    message: str = ""
    files: int = 0
    sha256: str = ""


RestartReason = Literal["ended", "silent", "stalled"]
"""`ended`: the engine's process was gone. `silent`: it answered nothing, not even its health route. `stalled`: its
health route answered, and requests that ran got no token."""

RESTART_REASONS: tuple[RestartReason, ...] = get_args(RestartReason)


@dataclass(frozen=True, slots=True)
class Restart:
    """One time that an engine in a process of its own was started again: Unix time, kind, and a clause why."""

    at: float
    reason: RestartReason
    sentence: str


@dataclass(frozen=True, slots=True)
class EngineHealth:
    """How an engine is that computes in a process of its own. `alive` is false where it hangs and is to be ended.

    `available`: it takes requests now; while it doesn't, they wait. `message` says why it isn't, or that it sleeps.
    `restarts` are the last ones, the newest last; `counts` all of them by reason.
    """

    alive: bool
    available: bool
    message: str = ""
    version: str = ""
    restarts: tuple[Restart, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
