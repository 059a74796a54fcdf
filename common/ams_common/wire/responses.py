"""Bodies of OpenAI's Responses API, as far as this server has it."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from ams_common.wire.fields import Degradable, NewTokens, SamplingFields
from ams_common.wire.logprobs import TokenLogprob
from ams_common.wire.media import InputAudio, TextPart
from ams_common.wire.openai import TopLogprobs
from ams_common.wire.tools import ToolName

_TYPE = "Kind of the item: `message` where it is left out."
_STATUS = "`in_progress`, `completed`, or `incomplete` where the tokens ran out."
_TEXT = "The text."
_SEQUENCE = "Number of the event in its stream, from 0."
_ITEM_ID = "Id of the item."
_OUTPUT_INDEX = "Place of the item in `output`."
_CONTENT_INDEX = "Place of the part in its item."
_DELTA = "What is new."
_LOGPROBS = "Logarithms of the probabilities of its tokens, if `include` asks for them."

Detail = Annotated[
    Literal["auto", "low", "high", "original"] | None,
    Meta(description="`low` scales the image down to 512 × 512 pixels; the others keep what the model takes."),
]
Metadata = Annotated[dict[str, str], Meta(max_length=16)]


class InputText(msgspec.Struct, frozen=True, tag="input_text"):
    """A text of a user, or of a tool."""

    text: Annotated[str, Meta(description=_TEXT)]


class OutputTextInput(msgspec.Struct, frozen=True, tag="output_text"):
    """A text that the model wrote."""

    text: Annotated[str, Meta(description=_TEXT)]


class RefusalInput(msgspec.Struct, frozen=True, tag="refusal"):
    """A text by which a model refused."""

    refusal: Annotated[str, Meta(description=_TEXT)]


class InputImage(msgspec.Struct, frozen=True, kw_only=True, tag="input_image"):
    """An image."""

    image_url: Annotated[
        str | None, Meta(description="A data URI, or an https URL if the model's process allows its host.")
    ] = None
    file_id: Annotated[str | None, Meta(description="Refused: files can't be uploaded beforehand.")] = None
    detail: Detail = None


class InputFile(msgspec.Struct, frozen=True, kw_only=True, tag="input_file"):
    """A PDF: its pages are images."""

    file_data: Annotated[str | None, Meta(description="Base64 of a PDF, or a data URI.")] = None
    file_url: Annotated[
        str | None, Meta(description="An https URL of a PDF, if the model's process allows its host.")
    ] = None
    file_id: Annotated[str | None, Meta(description="Refused: files can't be uploaded beforehand.")] = None
    filename: Annotated[str | None, Meta(description="Ignored: the content tells what it is.")] = None


class InputAudioPart(msgspec.Struct, frozen=True, tag="input_audio"):
    """Audio."""

    input_audio: Annotated[InputAudio, Meta(description="The audio.")]


class ReasoningText(msgspec.Struct, frozen=True, tag="reasoning_text"):
    """What a model thought."""

    text: Annotated[str, Meta(description=_TEXT)]


class SummaryText(msgspec.Struct, frozen=True, tag="summary_text"):
    """What a model thought, as it is shown."""

    text: Annotated[str, Meta(description=_TEXT)]


InputPart = (
    InputText
    | OutputTextInput
    | TextPart
    | RefusalInput
    | InputImage
    | InputFile
    | InputAudioPart
    | ReasoningText
    | SummaryText
)


class InputItem(msgspec.Struct, frozen=True, kw_only=True):
    """One item of the conversation so far: what somebody said, thought, called, or got back from a tool."""

    type: Annotated[
        Literal[
            "message",
            "function_call",
            "function_call_output",
            "custom_tool_call",
            "custom_tool_call_output",
            "reasoning",
        ]
        | None,
        Meta(description=_TYPE),
    ] = None
    id: Annotated[str | None, Meta(description="Ignored: items are told by their place.")] = None
    status: Annotated[str | None, Meta(description="Ignored: items are what they hold.")] = None
    role: Annotated[
        Literal["user", "assistant", "system", "developer"] | None, Meta(description="Who speaks, of a message.")
    ] = None
    content: Annotated[str | list[InputPart] | None, Meta(description="What a message says, or what was thought.")] = (
        None
    )
    summary: Annotated[list[SummaryText] | None, Meta(description="What was thought, as it was shown.")] = None
    encrypted_content: Annotated[
        str | None,
        Meta(description="What was thought, as this server gave it; of another server's nothing can be read."),
    ] = None
    call_id: Annotated[str | None, Meta(description="Id of a call of a tool, or of the call with this output.")] = None
    name: Annotated[str | None, Meta(description="Name of the tool that is called.")] = None
    namespace: Annotated[str | None, Meta(description="Namespace of the tool that is called, if it has one.")] = None
    arguments: Annotated[str | None, Meta(description="Arguments of a call of a function, an object in JSON.")] = None
    input: Annotated[str | None, Meta(description="Text that a custom tool is called with.")] = None
    output: Annotated[str | list[InputPart] | None, Meta(description="What a tool gave back.")] = None


class CustomFormat(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the text looks that a custom tool takes."""

    type: Annotated[Literal["text", "grammar"], Meta(description="`grammar`: as its definition says.")]
    syntax: Annotated[Literal["lark", "regex"] | None, Meta(description="How the definition is written.")] = None
    definition: Annotated[str | None, Meta(description="The grammar, which the model is told.")] = None


class _ToolFields(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What tools have in common."""

    type: Annotated[
        str,
        Meta(
            description="`function`, `custom` or `namespace`. Tools that a server would run itself are left out beside "
            "these, and refused without."
        ),
    ]
    name: Annotated[ToolName | None, Meta(description="Name of the tool.")] = None
    description: Annotated[str | None, Meta(description="What it does, for the model.")] = None
    parameters: Annotated[dict[str, Any] | None, Meta(description="JSON Schema of a function's arguments.")] = None
    strict: Annotated[
        bool | None, Meta(description="`true` holds the arguments of a function's calls to the schema.")
    ] = None
    format: Annotated[CustomFormat | None, Meta(description="How a custom tool's text looks.")] = None


class NamespacedTool(_ToolFields, frozen=True, kw_only=True, omit_defaults=True):
    """A tool of a namespace."""


class ResponseTool(_ToolFields, frozen=True, kw_only=True, omit_defaults=True):
    """A tool that the model may call."""

    tools: Annotated[list[NamespacedTool] | None, Meta(description="The tools of a namespace.")] = None


class AllowedTool(msgspec.Struct, frozen=True, kw_only=True):
    """A tool, by its name."""

    type: Annotated[str, Meta(description="Kind of the tool.")] = "function"
    name: Annotated[str | None, Meta(description="Its name.")] = None


class ResponseToolChoice(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The one tool that is to be called, or those that may be."""

    type: Annotated[str, Meta(description="`function` or `custom` with a name, or `allowed_tools`.")]
    name: Annotated[str | None, Meta(description="Name of the tool that is to be called.")] = None
    mode: Annotated[
        Literal["auto", "required"] | None, Meta(description="Of `allowed_tools`: whether one has to be called.")
    ] = None
    tools: Annotated[list[AllowedTool] | None, Meta(description="Of `allowed_tools`: those that may be called.")] = None


class ResponseTextFormat(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the answer's text has to be."""

    type: Annotated[Literal["text", "json_object", "json_schema"], Meta(description="Kind of the format.")]
    name: Annotated[str | None, Meta(description="Name of the schema.")] = None
    description: Annotated[str | None, Meta(description="What the schema is for.")] = None
    schema: Annotated[dict[str, Any] | None, Meta(description="The JSON Schema that the text follows.")] = None
    strict: Annotated[bool | None, Meta(description="Taken: schemas are always followed.")] = None


class TextConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the answer's text has to be."""

    format: Annotated[ResponseTextFormat | None, Meta(description="Its format.")] = None
    verbosity: Annotated[
        Literal["low", "medium", "high"] | None, Meta(description="Taken: how much a model says can't be set.")
    ] = None


PLAIN_TEXT = TextConfig(format=ResponseTextFormat(type="text"))


class ReasoningConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How the model reasons, and what of it is shown."""

    effort: Annotated[
        Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None,
        Meta(description="How much the model reasons, as far as its chat template can tell it."),
    ] = None
    summary: Annotated[
        Literal["auto", "concise", "detailed"] | None,
        Meta(description="Gives the thoughts, whole, as a summary too, for clients that show summaries alone."),
    ] = None


class ResponsesRequest(SamplingFields, frozen=True, kw_only=True):
    """A conversation to go on with."""

    model: Annotated[str, Meta(description="Name or alias of a model; `_` and `-` are alike.")]
    input: Annotated[
        str | list[InputItem], Meta(description="A text of the user, or the items of the conversation.")
    ] = ""
    instructions: Annotated[str | None, Meta(description="What the model is to do: its system message.")] = None
    previous_response_id: Annotated[
        str | None, Meta(description="Id of the response that this one goes on from, if it was stored.")
    ] = None
    previous_items: Annotated[
        list[Any] | None,
        Meta(description="What `input` follows: the gateway puts the items of the response before here."),
    ] = None
    store: Annotated[
        bool | None, Meta(description="`false`: the response isn't kept, and no other can go on from it.")
    ] = None
    stream: Annotated[bool | None, Meta(description="`true` for server-sent events.")] = None
    max_output_tokens: Annotated[
        NewTokens | None,
        Meta(description="Longest answer in tokens, as far as the model's limits allow; left out: as long as they do."),
    ] = None
    tools: Annotated[
        Annotated[list[ResponseTool], Meta(max_length=512)] | None, Meta(description="Tools that the model may call.")
    ] = None
    tool_choice: Annotated[
        Literal["none", "auto", "required"] | ResponseToolChoice | None,
        Meta(
            description="`auto`: the model decides; `none`: it calls no tool; `required`: at least one; or the one "
            "that it calls, or those that it may call."
        ),
    ] = None
    parallel_tool_calls: Annotated[bool | None, Meta(description="`false` for at most one call in an answer.")] = None
    reasoning: Annotated[ReasoningConfig | None, Meta(description="How the model reasons.")] = None
    text: Annotated[TextConfig | None, Meta(description="What the answer's text has to be.")] = None
    include: Annotated[
        list[str] | None,
        Meta(
            description="`reasoning.encrypted_content` gives the thoughts in a form that clients send back, "
            "`message.output_text.logprobs` the logarithms of probabilities; the others are about tools that this "
            "server doesn't run."
        ),
    ] = None
    top_logprobs: Annotated[
        TopLogprobs | None, Meta(description="So many likeliest tokens beside each of the answer's text, with theirs.")
    ] = None
    metadata: Annotated[Metadata | None, Meta(description="Up to 16 texts, which the response has too.")] = None
    user: Annotated[str | None, Meta(description="For the client's own records; the response has it too.")] = None


# What the model says.


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """Why a response failed."""

    code: Annotated[str, Meta(description="Stable code of the error.")]
    message: Annotated[str, Meta(description="A sentence for a person.")]


class Incomplete(msgspec.Struct, frozen=True, kw_only=True):
    """Why a response is incomplete."""

    reason: Annotated[Literal["max_output_tokens"], Meta(description="The tokens ran out.")] = "max_output_tokens"


class OutputText(msgspec.Struct, frozen=True, kw_only=True, tag="output_text"):
    """A text of the answer."""

    text: Annotated[str, Meta(description=_TEXT)]
    annotations: Annotated[list[Any], Meta(description="Always empty.")] = msgspec.field(default_factory=list)
    logprobs: Annotated[list[TokenLogprob], Meta(description=_LOGPROBS)] = msgspec.field(default_factory=list)


class ReasoningContent(msgspec.Struct, frozen=True, kw_only=True, tag="reasoning_text"):
    """What the model thought."""

    text: Annotated[str, Meta(description=_TEXT)]


class ReasoningSummary(msgspec.Struct, frozen=True, kw_only=True, tag="summary_text"):
    """What the model thought, for clients that show summaries alone."""

    text: Annotated[str, Meta(description=_TEXT)]


class OutputMessage(msgspec.Struct, frozen=True, kw_only=True, tag="message"):
    """What the model says."""

    id: Annotated[str, Meta(description=_ITEM_ID)]
    status: Annotated[str, Meta(description=_STATUS)]
    role: Annotated[Literal["assistant"], Meta(description="Who speaks.")] = "assistant"
    content: Annotated[list[OutputText], Meta(description="One text.")]


class ReasoningItem(msgspec.Struct, frozen=True, kw_only=True, tag="reasoning"):
    """What a reasoning model thought."""

    id: Annotated[str, Meta(description=_ITEM_ID)]
    status: Annotated[str, Meta(description=_STATUS)]
    summary: Annotated[list[ReasoningSummary], Meta(description="The same as a summary, if `reasoning` asks for it.")]
    content: Annotated[list[ReasoningContent], Meta(description="One text.")]
    encrypted_content: Annotated[
        str | None, Meta(description="The same for clients that send it back, if `include` asks for it.")
    ] = None


class FunctionCallItem(msgspec.Struct, frozen=True, kw_only=True, tag="function_call"):
    """A call of a function."""

    id: Annotated[str, Meta(description=_ITEM_ID)]
    status: Annotated[str, Meta(description=_STATUS)]
    call_id: Annotated[str, Meta(description="Id of the call; the item with its output names it.")]
    name: Annotated[str, Meta(description="Name of the function.")]
    arguments: Annotated[str, Meta(description="Its arguments, an object in JSON.")]
    namespace: Annotated[str | None, Meta(description="Namespace of the function, if it has one.")] = None


class CustomToolCallItem(msgspec.Struct, frozen=True, kw_only=True, tag="custom_tool_call"):
    """A call of a custom tool."""

    id: Annotated[str, Meta(description=_ITEM_ID)]
    status: Annotated[str, Meta(description=_STATUS)]
    call_id: Annotated[str, Meta(description="Id of the call; the item with its output names it.")]
    name: Annotated[str, Meta(description="Name of the tool.")]
    input: Annotated[str, Meta(description="The text that it is called with.")]
    namespace: Annotated[str | None, Meta(description="Namespace of the tool, if it has one.")] = None


OutputItem = OutputMessage | ReasoningItem | FunctionCallItem | CustomToolCallItem


class InputTokensDetails(msgspec.Struct, frozen=True, kw_only=True):
    """What the tokens of the prompt are."""

    cached_tokens: Annotated[int, Meta(description="Tokens that an earlier request had computed.")] = 0
    cache_write_tokens: Annotated[int, Meta(description="Always 0: to keep them costs nothing.")] = 0


class OutputTokensDetails(msgspec.Struct, frozen=True, kw_only=True):
    """What the tokens of the answer are."""

    reasoning_tokens: Annotated[int, Meta(description="Tokens of a reasoning block.")] = 0


class ResponseUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of one response."""

    input_tokens: Annotated[int, Meta(description="Tokens of the prompt, media included.")]
    input_tokens_details: Annotated[InputTokensDetails, Meta(description="What the tokens of the prompt are.")]
    output_tokens: Annotated[int, Meta(description="Tokens of the answer, reasoning included.")]
    output_tokens_details: Annotated[OutputTokensDetails, Meta(description="What the tokens of the answer are.")]
    total_tokens: Annotated[int, Meta(description="Sum of both.")]


class Response(Degradable, frozen=True, kw_only=True):
    """The answer of /v1/responses."""

    id: Annotated[str, Meta(description="Id of this response.")]
    object: Annotated[Literal["response"], Meta(description="Kind of this body.")] = "response"
    created_at: Annotated[int, Meta(description="Unix time of the response, in seconds.")]
    status: Annotated[
        Literal["in_progress", "completed", "incomplete", "failed"],
        Meta(description="`incomplete`: the tokens ran out; `in_progress` and `failed` in streams alone."),
    ]
    background: Annotated[bool, Meta(description="Always false.")] = False
    error: Annotated[Refused | None, Meta(description="Why it failed, if it did.")] = None
    incomplete_details: Annotated[Incomplete | None, Meta(description="Why it is incomplete, if it is.")] = None
    instructions: Annotated[str | None, Meta(description="Those of the request.")] = None
    max_output_tokens: Annotated[int | None, Meta(description="That of the request.")] = None
    metadata: Annotated[dict[str, str], Meta(description="That of the request.")] = msgspec.field(default_factory=dict)
    model: Annotated[str, Meta(description="Name of the model that answered, as the request has it.")]
    output: Annotated[list[OutputItem], Meta(description="What the model thought, said and calls, in this order.")]
    parallel_tool_calls: Annotated[bool, Meta(description="That of the request.")] = True
    previous_response_id: Annotated[str | None, Meta(description="That of the request.")] = None
    reasoning: Annotated[ReasoningConfig, Meta(description="That of the request.")] = ReasoningConfig()
    service_tier: Annotated[Literal["default"], Meta(description="Always `default`.")] = "default"
    store: Annotated[bool, Meta(description="Whether the request asks for it to be kept.")] = True
    temperature: Annotated[float | None, Meta(description="That of the request; null: the model's own.")] = None
    text: Annotated[TextConfig, Meta(description="That of the request.")] = TextConfig(
        format=ResponseTextFormat(type="text")
    )
    tool_choice: Annotated[Any, Meta(description="That of the request.")] = "auto"
    tools: Annotated[list[ResponseTool], Meta(description="The tools that the model was told of.")] = msgspec.field(
        default_factory=list
    )
    top_p: Annotated[float | None, Meta(description="That of the request; null: the model's own.")] = None
    truncation: Annotated[Literal["disabled"], Meta(description="Always `disabled`.")] = "disabled"
    usage: Annotated[ResponseUsage | None, Meta(description="Tokens, once it has ended.")] = None
    user: Annotated[str | None, Meta(description="That of the request.")] = None


class _Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    sequence_number: Annotated[int, Meta(description=_SEQUENCE)]


class ResponseCreated(_Event, frozen=True, kw_only=True, tag="response.created"):
    """The first event."""

    response: Annotated[Response, Meta(description="The response, still empty.")]


class ResponseInProgress(_Event, frozen=True, kw_only=True, tag="response.in_progress"):
    """The second event."""

    response: Annotated[Response, Meta(description="The response, still empty.")]


class ResponseCompleted(_Event, frozen=True, kw_only=True, tag="response.completed"):
    """The last event of a response that is complete."""

    response: Annotated[Response, Meta(description="The whole response.")]


class ResponseIncomplete(_Event, frozen=True, kw_only=True, tag="response.incomplete"):
    """The last event of a response whose tokens ran out."""

    response: Annotated[Response, Meta(description="The whole response.")]


class ResponseFailed(_Event, frozen=True, kw_only=True, tag="response.failed"):
    """A response that failed on the way; an event `error` follows."""

    response: Annotated[Response, Meta(description="The response as far as it came.")]


class OutputItemAdded(_Event, frozen=True, kw_only=True, tag="response.output_item.added"):
    """An item begins."""

    output_index: Annotated[int, Meta(description=_OUTPUT_INDEX)]
    item: Annotated[OutputItem, Meta(description="The item, still empty.")]


class OutputItemDone(_Event, frozen=True, kw_only=True, tag="response.output_item.done"):
    """An item has ended."""

    output_index: Annotated[int, Meta(description=_OUTPUT_INDEX)]
    item: Annotated[OutputItem, Meta(description="The whole item.")]


class _ItemEvent(_Event, frozen=True, kw_only=True):
    item_id: Annotated[str, Meta(description=_ITEM_ID)]
    output_index: Annotated[int, Meta(description=_OUTPUT_INDEX)]


class _PartEvent(_ItemEvent, frozen=True, kw_only=True):
    content_index: Annotated[int, Meta(description=_CONTENT_INDEX)] = 0


class ContentPartAdded(_PartEvent, frozen=True, kw_only=True, tag="response.content_part.added"):
    """A text begins."""

    part: Annotated[OutputText | ReasoningContent, Meta(description="The text, still empty.")]


class ContentPartDone(_PartEvent, frozen=True, kw_only=True, tag="response.content_part.done"):
    """A text has ended."""

    part: Annotated[OutputText | ReasoningContent, Meta(description="The whole text.")]


class OutputTextDelta(_PartEvent, frozen=True, kw_only=True, tag="response.output_text.delta"):
    """What is new of the answer's text."""

    delta: Annotated[str, Meta(description=_DELTA)]
    logprobs: Annotated[list[TokenLogprob], Meta(description=_LOGPROBS)] = msgspec.field(default_factory=list)


class OutputTextDone(_PartEvent, frozen=True, kw_only=True, tag="response.output_text.done"):
    """The answer's text."""

    text: Annotated[str, Meta(description="The whole text.")]
    logprobs: Annotated[list[TokenLogprob], Meta(description=_LOGPROBS)] = msgspec.field(default_factory=list)


class ReasoningTextDelta(_PartEvent, frozen=True, kw_only=True, tag="response.reasoning_text.delta"):
    """What is new of what the model thinks."""

    delta: Annotated[str, Meta(description=_DELTA)]


class ReasoningTextDone(_PartEvent, frozen=True, kw_only=True, tag="response.reasoning_text.done"):
    """What the model thought."""

    text: Annotated[str, Meta(description="The whole text.")]


class _SummaryEvent(_ItemEvent, frozen=True, kw_only=True):
    summary_index: Annotated[int, Meta(description="Always 0.")] = 0


class ReasoningSummaryPartAdded(_SummaryEvent, frozen=True, kw_only=True, tag="response.reasoning_summary_part.added"):
    """A summary begins."""

    part: Annotated[ReasoningSummary, Meta(description="The summary, still empty.")]


class ReasoningSummaryPartDone(_SummaryEvent, frozen=True, kw_only=True, tag="response.reasoning_summary_part.done"):
    """A summary has ended."""

    part: Annotated[ReasoningSummary, Meta(description="The whole summary.")]


class ReasoningSummaryTextDelta(_SummaryEvent, frozen=True, kw_only=True, tag="response.reasoning_summary_text.delta"):
    """What is new of a summary."""

    delta: Annotated[str, Meta(description=_DELTA)]


class ReasoningSummaryTextDone(_SummaryEvent, frozen=True, kw_only=True, tag="response.reasoning_summary_text.done"):
    """A summary."""

    text: Annotated[str, Meta(description="The whole text.")]


class FunctionCallArgumentsDelta(_ItemEvent, frozen=True, kw_only=True, tag="response.function_call_arguments.delta"):
    """What is new of a call's arguments."""

    delta: Annotated[str, Meta(description=_DELTA)]


class FunctionCallArgumentsDone(_ItemEvent, frozen=True, kw_only=True, tag="response.function_call_arguments.done"):
    """A call's arguments."""

    name: Annotated[str, Meta(description="Name of the function.")]
    arguments: Annotated[str, Meta(description="All of them.")]


class CustomToolCallInputDelta(_ItemEvent, frozen=True, kw_only=True, tag="response.custom_tool_call_input.delta"):
    """The text of a call of a custom tool."""

    delta: Annotated[str, Meta(description="All of it, as it can be told only when it is complete.")]


class CustomToolCallInputDone(_ItemEvent, frozen=True, kw_only=True, tag="response.custom_tool_call_input.done"):
    """The text of a call of a custom tool."""

    input: Annotated[str, Meta(description="All of it.")]


RESPONSE_EVENTS: tuple[type[msgspec.Struct], ...] = (
    ResponseCreated,
    ResponseInProgress,
    OutputItemAdded,
    ContentPartAdded,
    ReasoningTextDelta,
    ReasoningTextDone,
    ReasoningSummaryPartAdded,
    ReasoningSummaryTextDelta,
    ReasoningSummaryTextDone,
    ReasoningSummaryPartDone,
    OutputTextDelta,
    OutputTextDone,
    ContentPartDone,
    FunctionCallArgumentsDelta,
    FunctionCallArgumentsDone,
    CustomToolCallInputDelta,
    CustomToolCallInputDone,
    OutputItemDone,
    ResponseCompleted,
    ResponseIncomplete,
    ResponseFailed,
)


class DeletedResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A response that is kept no longer."""

    id: Annotated[str, Meta(description="Id of the response.")]
    object: Annotated[Literal["response"], Meta(description="Kind of what was deleted.")] = "response"
    deleted: Annotated[bool, Meta(description="Always true.")] = True


class InputItemList(msgspec.Struct, frozen=True, kw_only=True):
    """What a response was asked with."""

    object: Annotated[Literal["list"], Meta(description="Kind of this body.")] = "list"
    data: Annotated[list[dict[str, Any]], Meta(description="The items as they were sent, each with an id.")]
    first_id: Annotated[str | None, Meta(description="Id of the first.")] = None
    last_id: Annotated[str | None, Meta(description="Id of the last.")] = None
    has_more: Annotated[bool, Meta(description="Whether more follow.")] = False
