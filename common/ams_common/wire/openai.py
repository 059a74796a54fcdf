"""Bodies of OpenAI's chat completions and completions, as far as this server has them."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from ams_common.wire.fields import FINISH_REASON, Degradable, FinishReason, NewTokens, NoOrMoreTokens, Usage
from ams_common.wire.logprobs import ChatLogprobs, CompletionLogprobs, PromptLogprobs
from ams_common.wire.media import ContentPart, MmIoKwargs, MmProcessorKwargs
from ams_common.wire.structured import StructuredFields
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
_LOGPROBS = "Logarithms of the probabilities of the answer's tokens, if requested."
_PROMPT_LOGPROBS = "Of each token of the prompt, if requested; the first has none."
_TIER = "As it was requested."


TopLogprobs = Annotated[int, Meta(ge=0, le=20)]
Answers = Annotated[int, Meta(ge=1, le=128)]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


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
    prefix: Annotated[
        bool | None, Meta(description="`true` in a last message of the assistant: the answer goes on from it.")
    ] = None
    partial: Annotated[bool | None, Meta(description="The same, under the name that other clients know.")] = None


class StreamOptions(msgspec.Struct, frozen=True):
    """What a stream has beside the answer."""

    include_usage: Annotated[bool | None, Meta(description="`true` for a last event with `usage`, no choices.")] = None


class Reasoning(msgspec.Struct, frozen=True):
    """How much a model reasons, as other servers have it."""

    effort: Annotated[Effort | None, Meta(description="As reasoning_effort.")] = None
    enabled: Annotated[bool | None, Meta(description="`false` switches reasoning off.")] = None
    exclude: Annotated[bool | None, Meta(description="`true` leaves the thoughts out of the answer.")] = None


class Thinking(msgspec.Struct, frozen=True):
    """Whether a model reasons, as other servers have it."""

    type: Annotated[Literal["enabled", "disabled", "auto", "adaptive"], Meta(description="`disabled`: it does not.")]


class _SampledRequest(StructuredFields, frozen=True, kw_only=True):
    """What chat and text completions share."""

    n: Annotated[Answers | None, Meta(description="So many answers to each prompt, at most 128 in all.")] = None
    prompt_logprobs: Annotated[
        TopLogprobs | None,
        Meta(description="Tells the logarithm of the probability of each token of the prompt, and so many likelier."),
    ] = None
    service_tier: Annotated[
        Literal["auto", "default", "flex", "scale", "priority"] | None,
        Meta(description="Changes nothing; the answer names it again."),
    ] = None

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
    logprobs: Annotated[
        bool | None, Meta(description="`true` tells the logarithm of each token's probability, reasoning included.")
    ] = None
    top_logprobs: Annotated[
        TopLogprobs | None, Meta(description="With logprobs: those of so many likeliest tokens beside each.")
    ] = None
    continue_final_message: Annotated[
        bool | None, Meta(description="`true`: the answer goes on from the last message, one of the assistant.")
    ] = None
    add_generation_prompt: Annotated[
        bool | None, Meta(description="`false` with continue_final_message, which implies it.")
    ] = None
    chat_template_kwargs: Annotated[
        dict[str, Any] | None, Meta(description="Arguments of the model's chat template, such as `enable_thinking`.")
    ] = None
    reasoning_effort: Annotated[
        Effort | None,
        Meta(description="`none` switches reasoning off; others are for models whose chat template knows them."),
    ] = None
    reasoning: Annotated[Reasoning | None, Meta(description="The same, as other servers have it.")] = None
    thinking: Annotated[Thinking | bool | None, Meta(description="Whether the model reasons.")] = None
    enable_thinking: Annotated[bool | None, Meta(description="The same.")] = None
    think: Annotated[bool | Effort | None, Meta(description="The same, or how much.")] = None
    include_reasoning: Annotated[bool | None, Meta(description="`false` leaves the thoughts out of the answer.")] = None


class CompletionRequest(_SampledRequest, frozen=True, kw_only=True):
    """A text to continue."""

    prompt: Annotated[
        str | list[str | int | list[int]],
        Meta(description="A text or a list of token ids, or a list of up to 128 of these."),
    ]
    max_tokens: Annotated[
        NoOrMoreTokens | None,
        Meta(
            description="Longest answer in tokens, as far as the model's limits allow; left out: as long as they do. 0 "
            "with echo: none."
        ),
    ] = None
    best_of: Annotated[
        Answers | None, Meta(description="So many answers are made to each prompt, and the n likeliest ones told.")
    ] = None
    echo: Annotated[bool | None, Meta(description="`true`: the prompt in front of the answer.")] = None
    logprobs: Annotated[
        TopLogprobs | bool | None,
        Meta(description="Logarithms of each token's probability, and of so many likeliest tokens beside it."),
    ] = None
    suffix: Annotated[
        str | None, Meta(description="What comes after the answer, for models that fill in the middle.")
    ] = None


class ChatMessage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the model says."""

    role: Annotated[Literal["assistant"] | None, Meta(description="Who speaks.")] = None
    content: Annotated[
        str | UnsetType | None,
        Meta(description="The text, without a reasoning block; null where there are calls alone."),
    ] = UNSET
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


ChatFinishReason = FinishReason | Literal["function_call"]


class ChatChoice(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a chat."""

    index: Annotated[int, Meta(description="Which of the answers.")] = 0
    message: Annotated[ChatMessage, Meta(description="What the model says.")]
    logprobs: Annotated[ChatLogprobs | None, Meta(description=_LOGPROBS)] = None
    finish_reason: Annotated[ChatFinishReason, Meta(description=FINISH_REASON)]


class ChatResponse(Degradable, frozen=True, kw_only=True):
    """The answer of /v1/chat/completions."""

    id: Annotated[str, Meta(description=_ID)]
    object: Annotated[Literal["chat.completion"], Meta(description=_OBJECT)] = "chat.completion"
    created: Annotated[int, Meta(description=_CREATED)]
    model: Annotated[str, Meta(description=_MODEL_OF_ANSWER)]
    choices: Annotated[list[ChatChoice], Meta(description="The answers.")]
    usage: Annotated[Usage, Meta(description="Tokens of prompt and answers.")]
    service_tier: Annotated[str | UnsetType, Meta(description=_TIER)] = UNSET
    prompt_logprobs: Annotated[PromptLogprobs | UnsetType, Meta(description=_PROMPT_LOGPROBS)] = UNSET


class ChatDeltaChoice(msgspec.Struct, frozen=True, kw_only=True):
    """What is new of the answer to a chat."""

    index: Annotated[int, Meta(description="Which of the answers.")] = 0
    delta: Annotated[ChatDelta, Meta(description="What is new.")]
    logprobs: Annotated[ChatLogprobs | None, Meta(description=_LOGPROBS)] = None
    finish_reason: Annotated[ChatFinishReason | None, Meta(description=f"In the last event. {FINISH_REASON}")] = None


class ChatChunk(Degradable, frozen=True, kw_only=True):
    """One event of a streamed chat. `data: [DONE]` follows the last one."""

    id: Annotated[str, Meta(description=_ID)]
    object: Annotated[Literal["chat.completion.chunk"], Meta(description=_OBJECT)] = "chat.completion.chunk"
    created: Annotated[int, Meta(description=_CREATED)]
    model: Annotated[str, Meta(description=_MODEL_OF_ANSWER)]
    choices: Annotated[list[ChatDeltaChoice], Meta(description="One answer; none in the event that has `usage`.")]
    usage: Annotated[Usage | None, Meta(description="In the last event, if stream_options request it.")] = None
    service_tier: Annotated[str | UnsetType, Meta(description=_TIER)] = UNSET


class CompletionChoice(msgspec.Struct, frozen=True, kw_only=True):
    """The continuation of a text; in a stream what is new of it."""

    index: Annotated[int, Meta(description="Which of the answers.")] = 0
    text: Annotated[str, Meta(description="The text.")]
    logprobs: Annotated[CompletionLogprobs | None, Meta(description=_LOGPROBS)] = None
    finish_reason: Annotated[FinishReason | None, Meta(description=FINISH_REASON)] = None
    prompt_logprobs: Annotated[PromptLogprobs | UnsetType, Meta(description=_PROMPT_LOGPROBS)] = UNSET


class CompletionResponse(Degradable, frozen=True, kw_only=True):
    """The answer of /v1/completions, and each event of its stream."""

    id: Annotated[str, Meta(description=_ID)]
    object: Annotated[Literal["text_completion"], Meta(description=_OBJECT)] = "text_completion"
    created: Annotated[int, Meta(description=_CREATED)]
    model: Annotated[str, Meta(description=_MODEL_OF_ANSWER)]
    choices: Annotated[list[CompletionChoice], Meta(description="The answers; in a stream one of them.")]
    usage: Annotated[Usage | None, Meta(description="Tokens; in a stream in the last event, if requested.")] = None
    service_tier: Annotated[str | UnsetType, Meta(description=_TIER)] = UNSET
