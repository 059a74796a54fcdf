"""What an engine raises on purpose.

EngineError
├── LoadFailed      the model can't be served: the pod ends
└── EngineRefusal   a request can't be computed: it ends, others go on
"""

from typing import Literal

from ams_common.reasons import Reason

RefusalKind = Literal[
    "invalid-prompt",
    "invalid-constraint",
    "missing-prompt",
    "unsupported-modality",
    "unsupported",
    "context-length-exceeded",
    "out-of-memory",
    "engine-lost",
    "engine-failed",
]


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
        part: Literal["prompt", "messages", "image", "tools"] | None = None,
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
