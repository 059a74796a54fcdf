"""What is asked of another engine, and what comes back, whichever it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ams_common.adapters import adapter_id
from ams_common.families import Modality

from ams_pod.engines.port import EngineError, Finish, Prepared, Sampling, TokenLogprobs


@dataclass(frozen=True, slots=True)
class Held:
    """A constraint in an engine's own fields; `reasoning` as of a `Constraint`."""

    fields: Mapping[str, Any]
    reasoning: bool = True


@dataclass(frozen=True, slots=True)
class MediaChat:
    """A chat with media, for an engine that makes the prompt itself: messages and fields of OpenAI's API.

    `frame_rate` is that of its videos, in frames a second of those that were taken, on the average; None without any.
    """

    messages: Sequence[Mapping[str, Any]]
    fields: Mapping[str, Any] = field(default_factory=dict)
    frame_rate: float | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """Two texts that are compared, as the engine reads them itself."""

    query: str
    text: str


@dataclass(frozen=True, slots=True)
class Written:
    """A prompt as a text, for an engine that takes no token ids."""

    text: str


_AROUND = 256  # tokens that an engine puts around the texts of a pair, as a template of its own


def most_tokens(prepared: Prepared) -> int:
    """No engine makes more of it: a token is a byte at least."""
    media = prepared.media
    if isinstance(media, Pair):
        return len(media.query.encode()) + len(media.text.encode()) + _AROUND
    return len(media.text.encode()) + _AROUND if isinstance(media, Written) else len(prepared.ids)


VERSION_MARK = "@"  # between the name of an adapter and what tells its bytes

Task = Literal["generate", "embed", "score"]
"""What an engine is there for: to go on from prompts, to make vectors of texts, or scores of pairs of them."""

Scale = Literal["as-is", "sigmoid", "logit"]
"""What is made of a score: nothing, a probability of a logit, or a logit of a probability."""


@dataclass(frozen=True, slots=True)
class VectorForm:
    """How an engine is asked for vectors or scores, and what is made of what it gives.

    Texts go as token ids or as they are; the values are asked for as `encoding`, which no engine has to heed. A pair
    goes as two texts (`score`), or as a query with one of `documents`, or of `texts`, as text-embeddings-inference
    calls them. `counts`: the number of tokens that it tells is one. `normalizes`: vectors become unit vectors here.
    """

    route: str = "/v1/embeddings"
    prompt: Literal["ids", "text"] = "ids"
    encoding: Literal["base64", "float"] = "base64"
    pairs: Literal["score", "documents", "texts"] = "score"
    counts: bool = True
    scale: Scale = "as-is"
    normalizes: bool = False


PLAIN_FORM = VectorForm()


@dataclass(frozen=True, slots=True)
class LoadedAdapter:
    """A LoRA adapter as an engine has it: its name, MODEL:NAME, and its place among those that were given to it.

    One that was loaded while the engine runs has a `version`, which is part of what the engine calls it: another one of
    its name may be there until the requests that use it have ended.
    """

    model: str
    name: str
    number: int = 0
    version: str = ""

    @property
    def key(self) -> str:
        """Its name, unlike that of any other version."""
        return f"{self.name}{VERSION_MARK}{self.version}" if self.version else self.name

    @property
    def id(self) -> str:
        return adapter_id(self.model, self.key)


@dataclass(frozen=True, slots=True)
class Asked:
    """One request. `ids` are the prompt, unless there is a `chat` or a `pair`; `text` is the prompt for an engine that
    takes no ids. `salt`: whose cached prompts it may use.

    `model` is what the engine calls its model; `slot` where it is to be computed, of engines that leave that to others;
    `reuses` whether the slot holds what the same salt left. `vocabulary` are the tokens that there are, None: unknown.
    `adapter` is applied to the model, of `adapters` that there are; None: none is.
    `form` is how vectors and scores are asked for. `without` are fields that this engine was seen to refuse, and that
    may be left out.
    """

    ids: Sequence[int]
    sampling: Sampling
    model: str
    context_tokens: int
    chat: MediaChat | None = None
    task: Task = "generate"
    pair: Pair | None = None
    form: VectorForm = PLAIN_FORM
    text: str | None = None
    thinking: bool = False
    salt: str = ""
    slot: int | None = None
    reuses: bool = True
    vocabulary: int | None = None
    adapter: LoadedAdapter | None = None
    adapters: int = 0
    without: frozenset[str] = frozenset()


@dataclass(slots=True)
class Piece:
    """What one event tells. `tokens` are ids of the answer, where the engine gives them; `text` is theirs.

    `count` is how many tokens the answer has so far, where it is told. `stops` is the id of the token that ended the
    answer, where that isn't among `tokens`. All numbers of the prompt come at the latest with the end. `embedding` is a
    vector, or the score of a pair.
    """

    tokens: Sequence[int] = ()
    text: str | None = None
    count: int | None = None
    finish: Finish | None = None
    logprobs: Sequence[TokenLogprobs] = ()
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    error: EngineError | None = None
    embedding: Sequence[float] | None = None


class EngineGone(EngineError):
    """What computes is gone, though something still answers for it."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What an engine tells of itself and its model; None or empty where it is silent."""

    model: str = ""
    models: tuple[str, ...] = ()  # all that it lists
    version: str = ""
    context_tokens: int | None = None
    concurrent_requests: int | None = None
    parameters: int | None = None
    weights_bytes: int | None = None
    quantization: str = ""
    vocabulary: int | None = None
    modalities: tuple[Modality, ...] | None = None
    adapters: int | None = None  # LoRA adapters that it has loaded


@dataclass(frozen=True, slots=True)
class EngineFigures:
    """What an engine's metrics tell; None where they don't. `cache_used` is 0 to 1."""

    running: float | None = None
    waiting: float | None = None
    cache_used: float | None = None
    cache_tokens: float | None = None
    cache_capacity: float | None = None
    process_bytes: float | None = None
