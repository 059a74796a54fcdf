"""One request as an engine sees it: what is asked, its prompt, its ticket, and the tokens that come back."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ams_pod.shares import EVERYBODY, Share
from ams_pod.waits import Waits

Finish = Literal["stop", "length", "cancelled", "failed"]
Degraded = Literal["cpu", "text-only", "simplified"]

ConstraintKind = Literal["json-object", "json-schema", "regex", "choice", "lark"]


@dataclass(frozen=True, slots=True)
class Constraint:
    """What an answer's text must be: `value` is a JSON Schema, a regular expression, or a grammar in llguidance's Lark.

    Of `choice` it is a JSON list of texts, of `json-object` empty. `reasoning`: a reasoning block in front of the
    answer is free, and so is white space behind it. `white_space` is a regular expression for what may stand between
    the parts of a JSON text; None is the engine's own.
    """

    kind: ConstraintKind
    value: str = ""
    reasoning: bool = True
    white_space: str | None = None


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
    min_new_tokens: int = 0  # no token that ends the answer before so many
    stop_tokens: tuple[int, ...] = ()  # that end the answer, beside the model's own
    banned_tokens: tuple[int, ...] = ()  # never chosen
    allowed_tokens: tuple[int, ...] | None = None  # no others are chosen; None: all
    logprobs: int | None = None  # so many likeliest tokens are told beside each that is chosen; None tells nothing
    prompt_logprobs: int | None = None  # the same of the prompt's tokens
    constraint: Any = None  # what the engine's `prepare_constraint` made
    adapter: str = ""  # name of the LoRA adapter that is applied to the model; empty: none


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """How messages become a prompt. `tools` are functions as OpenAI's API describes them: {"type", "function"}.

    `template_arguments` are given to the chat template beside its own. `continue_last`: the last message, one of the
    assistant, is the beginning of the answer. `no_thinking`: a reasoning block is closed before it begins, for
    templates that have no argument for it.
    """

    tools: tuple[dict[str, Any], ...] = ()
    template_arguments: Mapping[str, Any] = field(default_factory=dict)
    continue_last: bool = False
    no_thinking: bool = False


PLAIN_CHAT = ChatOptions()


@dataclass(frozen=True, slots=True)
class Prepared:
    """A prompt as token ids, made on the CPU side. `thinking` is true if the prompt itself opened a <think> block.

    `ids` holds one id for each position, those of media included. `media` is the engine's own: what its towers take.
    `media_items` is how many images, clips and videos there are; `text_only` makes the same prompt without them, None
    where that makes no sense. It costs little, and any thread may call it. `content` is what tells prompts apart: the
    ids, with those of media replaced by numbers that stand for what is in them; None for the ids themselves.
    """

    ids: Sequence[int]
    thinking: bool = False
    media: Any = None
    media_items: int = 0
    text_only: "Callable[[], Prepared] | None" = None
    content: Sequence[int] | None = None


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
    cache_salt: str = ""  # only requests of the same salt use each other's cached prompts
    compute_seconds: float = 0.0
    waits: Waits = field(init=False)
    cancelled: bool = False  # read by the engine before each step
    started_at: float | None = None  # when the first token of the prompt was computed
    degraded: Degraded | None = None
    rungs: tuple[str, ...] = ()
    first_rung_at: float | None = None
    set_asides: int = 0
    cached_tokens: int = 0  # of the prompt, which an earlier request had computed
    prompt_logprobs: "list[TokenLogprobs | None] | None" = None  # of each token of the prompt; the first has none

    def __post_init__(self) -> None:
        self.waits = Waits(self.submitted_at)


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Natural logarithms of probabilities, before temperature and all else that sampling changes.

    `top` are the likeliest tokens with theirs, the likeliest first.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """One token of one request, or its end. `token` is None where a request ends without a further token.

    `text` is what the token stands for, of an engine that gets texts instead of ids, such as one that asks another
    server; where it is None, the engine's detokenizer makes it. `embedding` is all that a request for
    one gets, with its end: a vector, or the score of a pair. A request whose ticket is degraded to `simplified` ends
    with `stop` and no token: the submitter has the text.
    """

    ticket: Ticket
    token: int | None
    finish: Finish | None = None
    error: BaseException | None = None
    text: str | None = None
    logprobs: TokenLogprobs | None = None
    embedding: Sequence[float] | None = None


Sink = Callable[[TokenEvent], None]

Publish = Callable[[list[TokenEvent]], None]
"""Takes the events of one step. An engine may call it from any of its threads."""
