"""Bodies of OpenAI's chat completions and completions, as far as this server has them."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from ams_common.wire.fields import FINISH_REASON, Degradable, FinishReason, NewTokens, SamplingFields, Usage
from ams_common.wire.media import ContentPart, MmIoKwargs, MmProcessorKwargs

_ID = "Id of this answer."
_OBJECT = "Kind of this body."
_CREATED = "Unix time of the answer, in seconds."
_MODEL_OF_ANSWER = "Name of the model that answered."


class Message(msgspec.Struct, frozen=True):
    """One turn of a chat."""

    role: Annotated[
        Literal["system", "developer", "user", "assistant"],
        Meta(description="Who speaks; `developer` is the same as `system`."),
    ]
    content: Annotated[str | list[ContentPart] | None, Meta(description="A text, or a list of texts and media.")] = None


class StreamOptions(msgspec.Struct, frozen=True):
    """What a stream has beside the answer."""

    include_usage: Annotated[bool | None, Meta(description="`true` for a last event with `usage`, no choices.")] = None


class _SampledRequest(SamplingFields, frozen=True, kw_only=True):
    """What chat and text completions share."""

    model: Annotated[str, Meta(description="Name or alias of a model; `_` and `-` are alike.")]
    stream: Annotated[bool | None, Meta(description="`true` for server-sent events.")] = None
    stream_options: Annotated[StreamOptions | None, Meta(description="Options of a stream.")] = None
    max_tokens: Annotated[
        NewTokens | None,
        Meta(description="Longest answer in tokens, as far as the model's limits allow; left out: as long as they do."),
    ] = None


class ChatRequest(_SampledRequest, frozen=True, kw_only=True):
    """A chat to continue."""

    messages: Annotated[list[Message], Meta(min_length=1, description="The chat so far; at least one message.")]
    mm_processor_kwargs: MmProcessorKwargs = None
    media_io_kwargs: MmIoKwargs = None
    max_completion_tokens: Annotated[NewTokens | None, Meta(description="OpenAI's newer name of max_tokens.")] = None


class CompletionRequest(_SampledRequest, frozen=True, kw_only=True):
    """A text to continue."""

    prompt: Annotated[
        str | list[str | int | list[int]], Meta(description="One text, or one list of token ids.")
    ]  # OpenAI also has lists of these


class ChatMessage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the model says; in a stream what is new of it."""

    role: Annotated[Literal["assistant"] | None, Meta(description="In a stream only the first event has it.")] = None
    content: Annotated[str | None, Meta(description="The text, without a reasoning block.")] = None
    reasoning_content: Annotated[str | None, Meta(description="A reasoning model's thoughts.")] = None
    reasoning: Annotated[str | None, Meta(description="The same, under the name that other clients know.")] = None


class ChatChoice(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a chat."""

    index: Annotated[int, Meta(description="Always 0.")] = 0
    message: Annotated[ChatMessage, Meta(description="What the model says.")]
    logprobs: Annotated[None, Meta(description="Always null.")] = None
    finish_reason: Annotated[FinishReason, Meta(description=FINISH_REASON)]


class ChatResponse(Degradable, frozen=True, kw_only=True):
    """The answer of /v1/chat/completions."""

    id: Annotated[str, Meta(description=_ID)]
    object: Annotated[Literal["chat.completion"], Meta(description=_OBJECT)] = "chat.completion"
    created: Annotated[int, Meta(description=_CREATED)]
    model: Annotated[str, Meta(description=_MODEL_OF_ANSWER)]
    choices: Annotated[list[ChatChoice], Meta(description="One choice.")]
    usage: Annotated[Usage, Meta(description="Tokens of prompt and answer.")]


class ChatDeltaChoice(msgspec.Struct, frozen=True, kw_only=True):
    """What is new of the answer to a chat."""

    index: Annotated[int, Meta(description="Always 0.")] = 0
    delta: Annotated[ChatMessage, Meta(description="What is new.")]
    logprobs: Annotated[None, Meta(description="Always null.")] = None
    finish_reason: Annotated[FinishReason | None, Meta(description=f"In the last event. {FINISH_REASON}")] = None


class ChatChunk(Degradable, frozen=True, kw_only=True):
    """One event of a streamed chat. `data: [DONE]` follows the last one."""

    id: Annotated[str, Meta(description=_ID)]
    object: Annotated[Literal["chat.completion.chunk"], Meta(description=_OBJECT)] = "chat.completion.chunk"
    created: Annotated[int, Meta(description=_CREATED)]
    model: Annotated[str, Meta(description=_MODEL_OF_ANSWER)]
    choices: Annotated[list[ChatDeltaChoice], Meta(description="One choice; none in the event that has `usage`.")]
    usage: Annotated[Usage | None, Meta(description="In the last event, if stream_options request it.")] = None


class CompletionChoice(msgspec.Struct, frozen=True, kw_only=True):
    """The continuation of a text; in a stream what is new of it."""

    index: Annotated[int, Meta(description="Always 0.")] = 0
    text: Annotated[str, Meta(description="The text.")]
    logprobs: Annotated[None, Meta(description="Always null.")] = None
    finish_reason: Annotated[FinishReason | None, Meta(description=FINISH_REASON)] = None


class CompletionResponse(Degradable, frozen=True, kw_only=True):
    """The answer of /v1/completions, and each event of its stream."""

    id: Annotated[str, Meta(description=_ID)]
    object: Annotated[Literal["text_completion"], Meta(description=_OBJECT)] = "text_completion"
    created: Annotated[int, Meta(description=_CREATED)]
    model: Annotated[str, Meta(description=_MODEL_OF_ANSWER)]
    choices: Annotated[list[CompletionChoice], Meta(description="One choice.")]
    usage: Annotated[Usage | None, Meta(description="Tokens; in a stream in the last event, if requested.")] = None
