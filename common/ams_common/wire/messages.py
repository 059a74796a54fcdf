"""Bodies of Anthropic's Messages API, as far as this server has it."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from ams_common.wire.fields import Degradable, NewTokens, SamplingFields, StopString
from ams_common.wire.tools import ToolName

_TEXT = "The text."
_INDEX = "Place of the block in `content`."


class TextBlock(msgspec.Struct, frozen=True, kw_only=True, tag="text"):
    """A text."""

    text: Annotated[str, Meta(description=_TEXT)]


class Base64Source(msgspec.Struct, frozen=True, kw_only=True, tag="base64"):
    """A file in base64."""

    data: Annotated[str, Meta(description="Base64 of the file.")]
    media_type: Annotated[
        str | None, Meta(description="What kind of file it is; the content of an image tells it.")
    ] = None


class UrlSource(msgspec.Struct, frozen=True, kw_only=True, tag="url"):
    """A file at an address."""

    url: Annotated[str, Meta(description="An https URL, if the model's process allows its host.")]


class TextSource(msgspec.Struct, frozen=True, kw_only=True, tag="text"):
    """A text as a document."""

    data: Annotated[str, Meta(description=_TEXT)]
    media_type: Annotated[str | None, Meta(description="Ignored: it is plain text.")] = None


class ContentSource(msgspec.Struct, frozen=True, kw_only=True, tag="content"):
    """A document in parts."""

    content: Annotated[str | list[TextBlock], Meta(description="Its texts.")]


class ImageBlock(msgspec.Struct, frozen=True, kw_only=True, tag="image"):
    """An image."""

    source: Annotated[Base64Source | UrlSource, Meta(description="Where it is.")]


class DocumentBlock(msgspec.Struct, frozen=True, kw_only=True, tag="document"):
    """A text, or a PDF, whose pages are images."""

    source: Annotated[Base64Source | UrlSource | TextSource | ContentSource, Meta(description="Where it is.")]
    title: Annotated[str | None, Meta(description="Its title, for the model.")] = None
    context: Annotated[str | None, Meta(description="What there is to say of it, for the model.")] = None


class SearchResultBlock(msgspec.Struct, frozen=True, kw_only=True, tag="search_result"):
    """Something that was found."""

    source: Annotated[str, Meta(description="Where it is from.")]
    title: Annotated[str, Meta(description="Its title.")]
    content: Annotated[list[TextBlock], Meta(description="Its texts.")]


class ToolUseBlock(msgspec.Struct, frozen=True, kw_only=True, tag="tool_use"):
    """A call of a tool."""

    id: Annotated[str, Meta(description="Id of the call; the block with its result names it.")]
    name: Annotated[str, Meta(description="Name of the tool.")]
    input: Annotated[dict[str, Any], Meta(description="What it is called with.")]


class ToolResultBlock(msgspec.Struct, frozen=True, kw_only=True, tag="tool_result"):
    """What a tool gave back."""

    tool_use_id: Annotated[str, Meta(description="The call whose result this is.")]
    content: Annotated[
        str | list[TextBlock | ImageBlock | DocumentBlock | SearchResultBlock] | None,
        Meta(description="A text, or a list of texts, images and documents."),
    ] = None
    is_error: Annotated[bool | None, Meta(description="`true`: the call failed, which the model is told.")] = None


class ThinkingBlock(msgspec.Struct, frozen=True, kw_only=True, tag="thinking"):
    """What the model thought."""

    thinking: Annotated[str, Meta(description=_TEXT)]
    signature: Annotated[str, Meta(description="Not checked; clients send it back as it came.")] = ""


class RedactedThinkingBlock(msgspec.Struct, frozen=True, kw_only=True, tag="redacted_thinking"):
    """What another server's model thought, which nobody else can read."""

    data: Annotated[str, Meta(description="Left out.")]


ContentBlock = (
    TextBlock
    | ImageBlock
    | DocumentBlock
    | SearchResultBlock
    | ToolUseBlock
    | ToolResultBlock
    | ThinkingBlock
    | RedactedThinkingBlock
)


class MessageInput(msgspec.Struct, frozen=True, kw_only=True):
    """One turn."""

    role: Annotated[Literal["user", "assistant", "system"], Meta(description="Who speaks.")]
    content: Annotated[str | list[ContentBlock], Meta(description="A text, or a list of blocks.")]


class MessagesTool(msgspec.Struct, frozen=True, kw_only=True):
    """A tool that the model may call."""

    name: ToolName
    type: Annotated[
        str | None,
        Meta(
            description="`custom`, the same as left out. Tools that Anthropic's servers run themselves are left out "
            "beside these, and refused without."
        ),
    ] = None
    description: Annotated[str | None, Meta(description="What it does, for the model.")] = None
    input_schema: Annotated[dict[str, Any] | None, Meta(description="JSON Schema of what it is called with.")] = None
    strict: Annotated[bool | None, Meta(description="`true` holds its calls to the schema.")] = None


class MessagesToolChoice(msgspec.Struct, frozen=True, kw_only=True):
    """Whether and which tool is called."""

    type: Annotated[
        Literal["auto", "any", "tool", "none"],
        Meta(description="`auto`: the model decides; `any`: at least one; `tool`: the one of this name; `none`: none."),
    ]
    name: Annotated[str | None, Meta(description="Name of the tool that is to be called.")] = None
    disable_parallel_tool_use: Annotated[bool | None, Meta(description="`true`: at most one call.")] = None


class ThinkingConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the model thinks, and whether that is shown."""

    type: Annotated[
        Literal["enabled", "disabled", "adaptive", "between_tools"],
        Meta(description="`disabled` switches it off where the chat template can; the others show it."),
    ]
    budget_tokens: Annotated[int | None, Meta(description="Taken: how long a model thinks can't be set.")] = None
    display: Annotated[
        Literal["summarized", "omitted"] | None, Meta(description="`omitted`: blocks of thinking are empty.")
    ] = None


class JsonFormat(msgspec.Struct, frozen=True, kw_only=True):
    """A schema that the answer's text follows."""

    type: Annotated[Literal["json_schema"], Meta(description="Kind of the format.")]
    schema: Annotated[dict[str, Any], Meta(description="The JSON Schema.")]


class OutputConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the answer is to be."""

    effort: Annotated[
        Literal["low", "medium", "high", "xhigh", "max"] | None,
        Meta(description="How much the model reasons, as far as its chat template can tell it."),
    ] = None
    format: Annotated[JsonFormat | None, Meta(description="A schema that the answer's text follows.")] = None


class _Prompt(SamplingFields, frozen=True, kw_only=True):
    """What is counted, and answered."""

    model: Annotated[str, Meta(description="Name or alias of a model; `_` and `-` are alike.")]
    messages: Annotated[
        list[MessageInput], Meta(min_length=1, description="The conversation so far; at least one message.")
    ]
    system: Annotated[
        str | list[TextBlock] | None, Meta(description="What the model is to do: a text, or a list of texts.")
    ] = None
    tools: Annotated[
        Annotated[list[MessagesTool], Meta(max_length=512)] | None, Meta(description="Tools that the model may call.")
    ] = None
    tool_choice: Annotated[MessagesToolChoice | None, Meta(description="Whether and which tool is called.")] = None
    thinking: Annotated[
        ThinkingConfig | None, Meta(description="Left out: the model thinks if it does so by itself; it isn't shown.")
    ] = None
    output_config: Annotated[OutputConfig | None, Meta(description="What the answer is to be.")] = None


class CountTokensRequest(_Prompt, frozen=True, kw_only=True):
    """A prompt whose tokens are to be counted."""


class MessagesRequest(_Prompt, frozen=True, kw_only=True):
    """A conversation to go on with."""

    max_tokens: Annotated[NewTokens, Meta(description="Longest answer in tokens, as far as the model's limits allow.")]
    stop_sequences: Annotated[
        Annotated[list[StopString], Meta(max_length=16)] | None,
        Meta(description="Up to 16 texts; the answer ends before the first of them."),
    ] = None
    stream: Annotated[bool | None, Meta(description="`true` for server-sent events.")] = None
    thread: Annotated[
        Any, Meta(description="Refused, so that clients send whole conversations: this server keeps none of messages.")
    ] = None


# What the model says.

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]
_STOP_REASON = (
    "`end_turn`: the model's end; `max_tokens`: the tokens ran out; `stop_sequence`: one of those of the request; "
    "`tool_use`: the model calls tools."
)


class MessageOutputDetails(msgspec.Struct, frozen=True, kw_only=True):
    """What the tokens of the answer are."""

    thinking_tokens: Annotated[int, Meta(description="Tokens of a reasoning block.")] = 0


class MessageUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of one message."""

    input_tokens: Annotated[int, Meta(description="Tokens of the prompt, but for those that were read from the cache.")]
    cache_creation_input_tokens: Annotated[int, Meta(description="Always 0: to keep them costs nothing.")] = 0
    cache_read_input_tokens: Annotated[int, Meta(description="Tokens of the prompt that were computed before.")] = 0
    output_tokens: Annotated[int, Meta(description="Tokens of the answer, thinking included.")]
    output_tokens_details: Annotated[MessageOutputDetails, Meta(description="What the tokens of the answer are.")] = (
        MessageOutputDetails()
    )


OutputBlock = TextBlock | ThinkingBlock | ToolUseBlock


class MessageResponse(Degradable, frozen=True, kw_only=True):
    """The answer of /v1/messages."""

    id: Annotated[str, Meta(description="Id of this message.")]
    type: Annotated[Literal["message"], Meta(description="Kind of this body.")] = "message"
    role: Annotated[Literal["assistant"], Meta(description="Who speaks.")] = "assistant"
    model: Annotated[str, Meta(description="Name of the model that answered, as the request has it.")]
    content: Annotated[list[OutputBlock], Meta(description="What the model thought, said and calls, in this order.")]
    stop_reason: Annotated[StopReason | None, Meta(description=_STOP_REASON)] = None
    stop_sequence: Annotated[str | None, Meta(description="The text that ended the answer, if one did.")] = None
    usage: Annotated[MessageUsage, Meta(description="Tokens of prompt and answer.")]


class MessageStart(msgspec.Struct, frozen=True, kw_only=True, tag="message_start"):
    """The first event."""

    message: Annotated[MessageResponse, Meta(description="The message, still empty.")]


class BlockStart(msgspec.Struct, frozen=True, kw_only=True, tag="content_block_start"):
    """A block begins."""

    index: Annotated[int, Meta(description=_INDEX)]
    content_block: Annotated[OutputBlock, Meta(description="The block, still empty.")]


class TextDelta(msgspec.Struct, frozen=True, kw_only=True, tag="text_delta"):
    """What is new of a text."""

    text: Annotated[str, Meta(description="What is new.")]


class ThinkingDelta(msgspec.Struct, frozen=True, kw_only=True, tag="thinking_delta"):
    """What is new of what the model thinks."""

    thinking: Annotated[str, Meta(description="What is new.")]


class SignatureDelta(msgspec.Struct, frozen=True, kw_only=True, tag="signature_delta"):
    """The signature of a block of thinking, at its end."""

    signature: Annotated[str, Meta(description="All of it.")]


class InputJsonDelta(msgspec.Struct, frozen=True, kw_only=True, tag="input_json_delta"):
    """What is new of a call's input."""

    partial_json: Annotated[str, Meta(description="What is new of its JSON.")]


class BlockDelta(msgspec.Struct, frozen=True, kw_only=True, tag="content_block_delta"):
    """What is new of a block."""

    index: Annotated[int, Meta(description=_INDEX)]
    delta: Annotated[TextDelta | ThinkingDelta | SignatureDelta | InputJsonDelta, Meta(description="What is new.")]


class BlockStop(msgspec.Struct, frozen=True, kw_only=True, tag="content_block_stop"):
    """A block has ended."""

    index: Annotated[int, Meta(description=_INDEX)]


class MessageEnd(msgspec.Struct, frozen=True, kw_only=True):
    """How the message ended."""

    stop_reason: Annotated[StopReason, Meta(description=_STOP_REASON)]
    stop_sequence: Annotated[str | None, Meta(description="The text that ended the answer, if one did.")] = None


class MessageDelta(Degradable, frozen=True, kw_only=True, tag="message_delta"):
    """How the message ended."""

    delta: Annotated[MessageEnd, Meta(description="Why it ended.")]
    usage: Annotated[MessageUsage, Meta(description="Tokens of prompt and answer.")]


class MessageStop(msgspec.Struct, frozen=True, kw_only=True, tag="message_stop"):
    """The last event."""


class Ping(msgspec.Struct, frozen=True, kw_only=True, tag="ping"):
    """Nothing new."""


MESSAGE_EVENTS: tuple[type[msgspec.Struct], ...] = (
    MessageStart,
    Ping,
    BlockStart,
    BlockDelta,
    BlockStop,
    MessageDelta,
    MessageStop,
)


class TokenCount(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of /v1/messages/count_tokens."""

    input_tokens: Annotated[int, Meta(description="Tokens of the prompt, media included.")]
