"""Bodies of OpenAI's chat completions and completions, as far as this server has them."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from ams_common.wire.fields import FINISH_REASON, Degradable, FinishReason, NewTokens, SamplingFields, Usage
from ams_common.wire.media import ContentPart, MmIoKwargs, MmProcessorKwargs
from ams_common.wire.tools import (
    FunctionCall,
    FunctionCallDelta,
    FunctionChoice,
    FunctionDefinition,
    Tool,
    ToolCall,
    ToolCallDelta,
    ToolChoice,
)

_ID = "Id of this answer."
_OBJECT = "Kind of this body."
_CREATED = "Unix time of the answer, in seconds."
_MODEL_OF_ANSWER = "Name of the model that answered."


class Message(msgspec.Struct, frozen=True):
    """One turn of a chat."""

    role: Annotated[
        Literal["system", "developer", "user", "assistant", "tool", "function"],
        Meta(description="Who speaks; `developer` is the same as `system`, `function` as `tool`."),
    ]
    content: Annotated[str | list[ContentPart] | None, Meta(description="A text, or a list of texts and media.")] = None
    name: Annotated[str | None, Meta(description="Name of the function whose result this is; else ignored.")] = None
    tool_calls: Annotated[list[ToolCall] | None, Meta(description="Calls of tools that the assistant made.")] = None
    function_call: Annotated[FunctionCall | None, Meta(description="OpenAI's older form of one such call.")] = None
    tool_call_id: Annotated[str | None, Meta(description="The call whose result a message of a tool is.")] = None
    reasoning_content: Annotated[
        str | None, Meta(description="What the assistant thought, for chat templates that show it.")
    ] = None
    reasoning: Annotated[str | None, Meta(description="The same, under the name that other clients know.")] = None


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
    tools: Annotated[
        Annotated[list[Tool], Meta(max_length=128)] | None,
        Meta(description="Tools that the model may call, up to 128."),
    ] = None
    tool_choice: Annotated[
        ToolChoice | None,
        Meta(
            description="`auto`: the model decides; `none`: it calls no tool; `required`: at least one; or the one "
            "that it calls."
        ),
    ] = None
    parallel_tool_calls: Annotated[bool | None, Meta(description="`false` for at most one call in an answer.")] = None
    functions: Annotated[
        Annotated[list[FunctionDefinition], Meta(max_length=128)] | None,
        Meta(description="OpenAI's older form of tools."),
    ] = None
    function_call: Annotated[FunctionChoice | None, Meta(description="OpenAI's older form of tool_choice.")] = None


class CompletionRequest(_SampledRequest, frozen=True, kw_only=True):
    """A text to continue."""

    prompt: Annotated[
        str | list[str | int | list[int]], Meta(description="One text, or one list of token ids.")
    ]  # OpenAI also has lists of these


class ChatMessage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the model says."""

    role: Annotated[Literal["assistant"] | None, Meta(description="Who speaks.")] = None
    content: Annotated[str | None, Meta(description="The text, without a reasoning block.")] = None
    reasoning_content: Annotated[str | None, Meta(description="A reasoning model's thoughts.")] = None
    reasoning: Annotated[str | None, Meta(description="The same, under the name that other clients know.")] = None
    tool_calls: Annotated[list[ToolCall] | None, Meta(description="Calls of tools.")] = None
    function_call: Annotated[FunctionCall | None, Meta(description="The call, where `functions` were given.")] = None


class ChatDelta(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is new of what the model says."""

    role: Annotated[Literal["assistant"] | None, Meta(description="Who speaks, in the first event.")] = None
    content: Annotated[str | None, Meta(description="Text, without a reasoning block.")] = None
    reasoning_content: Annotated[str | None, Meta(description="A reasoning model's thoughts.")] = None
    reasoning: Annotated[str | None, Meta(description="The same, under the name that other clients know.")] = None
    tool_calls: Annotated[list[ToolCallDelta] | None, Meta(description="Pieces of calls of tools.")] = None
    function_call: Annotated[
        FunctionCallDelta | None, Meta(description="A piece of the call, where `functions` were given.")
    ] = None


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
    delta: Annotated[ChatDelta, Meta(description="What is new.")]
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
