"""A request for a message as a chat. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec
from ams_common.errors import ApiError
from ams_common.wire import (
    ChatRequest,
    ContentPart,
    FileData,
    FilePart,
    FunctionDefinition,
    FunctionName,
    ImagePart,
    ImageUrl,
    TextPart,
    Tool,
    ToolChoice,
    ToolChoiceFunction,
)
from ams_common.wire.messages import (
    Base64Source,
    ContentBlock,
    ContentSource,
    CountTokensRequest,
    DocumentBlock,
    ImageBlock,
    MessageInput,
    MessagesRequest,
    MessagesTool,
    MessagesToolChoice,
    RedactedThinkingBlock,
    SearchResultBlock,
    TextBlock,
    TextSource,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    UrlSource,
)
from ams_common.wire.structured import JsonSchema, JsonSchemaFormat

from ams_pod.serve.conversation import Conversation, sampling_fields
from ams_pod.serve.parameters import stop_list

_BILLING = "x-anthropic-billing-header:"  # Claude Code's, another with each request: nothing for a model to read
_PDF = "application/pdf"
_PLAIN = "text/plain"


@dataclass(frozen=True, slots=True)
class Translation:
    """The chat that a request stands for, where in the request each message is from, and the tools left out."""

    chat: ChatRequest
    places: Sequence[str]
    left_out: Sequence[str]


def to_chat(request: MessagesRequest | CountTokensRequest) -> Translation:
    """ApiError for blocks that make no sense, and for tools that nobody here runs."""
    tools, left_out = _tools(request.tools or (), request.tool_choice)
    conversation = Conversation()
    system = [TextBlock(text=request.system)] if isinstance(request.system, str) else request.system or ()
    if texts := [TextPart(block.text) for block in system if not block.text.startswith(_BILLING)]:
        conversation.system(texts, "system")
    for index, message in enumerate(request.messages):
        _add(conversation, message, f"messages[{index}]")
    conversation.end()
    fields = sampling_fields(request)
    choice, parallel = _choice(request.tool_choice)
    output = request.output_config
    if isinstance(request, MessagesRequest):
        if request.thread is not None:
            raise ApiError(
                "invalid_parameter", "thread: this server keeps no conversations of messages; send the whole of it.",
                param="thread", error_code="thread_unsupported_request",
            )  # fmt: skip
        stops = [*stop_list(request.stop), *(request.stop_sequences or ())]
        fields |= {"stop": stops or None, "max_tokens": request.max_tokens, "stream": request.stream}
    chat = ChatRequest(
        **fields,
        model=request.model,
        messages=conversation.messages,
        tools=tools or None,
        tool_choice=choice if tools else None,
        parallel_tool_calls=parallel,
        enable_thinking={"enabled": True, "disabled": False}.get(request.thinking.type) if request.thinking else None,
        reasoning_effort=output.effort if output is not None else None,
        response_format=None
        if output is None or output.format is None
        else JsonSchemaFormat(json_schema=JsonSchema(schema=output.format.schema)),
        continue_final_message=_is_begun(conversation) or None,
    )
    return Translation(chat, conversation.places, left_out)


def _is_begun(conversation: Conversation) -> bool:
    """Whether the last message is the beginning of the answer."""
    last = conversation.messages[-1]
    return last.role == "assistant" and not last.tool_calls and bool(last.content)


def _tools(tools: Sequence[MessagesTool], choice: MessagesToolChoice | None) -> tuple[list[Tool], list[str]]:
    """Functions of a chat, and the tools that Anthropic's servers run, or know the schema of: they are left out."""
    functions: dict[str, Tool] = {}
    others: list[tuple[str, str]] = []
    for index, tool in enumerate(tools):
        if tool.type not in (None, "custom"):
            others.append((f"tools[{index}]", str(tool.type)))
            continue
        if tool.name in functions:
            raise ApiError(
                "invalid_parameter", f"tools[{index}].name: there are two tools called {tool.name}.",
                param=f"tools[{index}].name",
            )  # fmt: skip
        functions[tool.name] = Tool(
            function=FunctionDefinition(
                name=tool.name, description=tool.description, parameters=tool.input_schema, strict=tool.strict
            )
        )
    wants_none = choice is not None and choice.type == "none"
    wanted = choice.name if choice is not None and choice.type == "tool" else None
    if others and not wants_none and (not functions or (wanted is not None and wanted not in functions)):
        place, kind = others[0]
        raise ApiError(
            "invalid_parameter",
            f"{place}.type: this server has no tools of its own, {kind[:50]!r} neither; declare tools that the client "
            "runs, with a name and an input_schema.",
            param=f"{place}.type",
        )
    if wanted is not None and wanted not in functions:
        raise ApiError(
            "invalid_parameter", f"tool_choice.name: there is no tool {wanted[:100]!r} in tools.",
            param="tool_choice.name",
        )  # fmt: skip
    return list(functions.values()), [f"{place} ({kind[:50]})" for place, kind in others]


def _choice(choice: MessagesToolChoice | None) -> tuple[ToolChoice | None, bool | None]:
    if choice is None:
        return None, None
    parallel = False if choice.disable_parallel_tool_use else None
    match choice.type:
        case "any":
            return "required", parallel
        case "tool":
            if choice.name is None:
                raise ApiError("invalid_parameter", "tool_choice.name: is required.", param="tool_choice.name")
            return ToolChoiceFunction(function=FunctionName(choice.name)), parallel
        case "none":
            return "none", parallel
    return "auto", parallel


def _add(conversation: Conversation, message: MessageInput, place: str) -> None:
    content = [TextBlock(text=message.content)] if isinstance(message.content, str) else message.content
    if message.role == "assistant":
        for index, block in enumerate(content):
            _add_said(conversation, block, place, f"{place}.content[{index}]")
        return
    parts: list[ContentPart] = []
    for index, block in enumerate(content):
        where = f"{place}.content[{index}]"
        match block:
            case ToolResultBlock(tool_use_id=call_id):
                if parts:
                    conversation.user(parts, place)
                    parts = []
                conversation.result(call_id, list(_result(block, where)), place)
            case TextBlock() | ImageBlock() | DocumentBlock() | SearchResultBlock():
                parts += _parts(block, where)
            case _:
                raise _misplaced(where, "a message of the user")
    if message.role == "system":
        conversation.system(parts or [TextPart("")], place)
    elif parts or not content:
        conversation.user(parts or [TextPart("")], place)


def _add_said(conversation: Conversation, block: ContentBlock, place: str, where: str) -> None:
    match block:
        case TextBlock(text=text):
            conversation.say(text, place)
        case ThinkingBlock(thinking=thought):
            if thought:
                conversation.think(thought, place)
        case RedactedThinkingBlock():
            pass
        case ToolUseBlock(id=call_id, name=name, input=given):
            conversation.call(call_id, name, msgspec.json.encode(given).decode(), place)
        case _:
            raise _misplaced(where, "a message of the assistant")


def _misplaced(where: str, what: str) -> ApiError:
    return ApiError("invalid_parameter", f"{where}: {what} can't hold such a block.", param=where)


def _result(block: ToolResultBlock, where: str) -> Iterator[ContentPart]:
    content = block.content or ""
    inner = [TextBlock(text=content)] if isinstance(content, str) else content
    parts = [part for index, each in enumerate(inner) for part in _parts(each, f"{where}.content[{index}]")]
    if block.is_error:
        text = next((part.text for part in parts if isinstance(part, TextPart)), "")
        if "error" not in text[:100].lower():  # chats have no other way to say so
            yield TextPart("Error:")
    yield from parts or [TextPart("")]


def _parts(block: TextBlock | ImageBlock | DocumentBlock | SearchResultBlock, where: str) -> Iterator[ContentPart]:
    match block:
        case TextBlock(text=text):
            yield TextPart(text)
        case ImageBlock(source=Base64Source(data=data, media_type=kind)):
            yield ImagePart(image_url=ImageUrl(url=_data_uri(data, kind or "image/png")))
        case ImageBlock(source=UrlSource(url=url)):
            yield ImagePart(image_url=ImageUrl(url=url))
        case SearchResultBlock(source=source, title=title, content=texts):
            yield TextPart("\n".join([title, source, *(each.text for each in texts)]))
        case DocumentBlock(source=source, title=title, context=context):
            if about := "\n".join(filter(None, (title, context))):
                yield TextPart(about)
            yield from _document(source, where)


def _document(source: Base64Source | UrlSource | TextSource | ContentSource, where: str) -> Iterator[ContentPart]:
    match source:
        case TextSource(data=text):
            yield TextPart(text)
        case ContentSource(content=content):
            texts = [TextBlock(text=content)] if isinstance(content, str) else content
            yield from (TextPart(each.text) for each in texts)
        case UrlSource(url=url):
            yield FilePart(file=FileData(file_data=url))
        case Base64Source(data=data, media_type=kind):
            if kind not in (None, _PDF):
                raise ApiError(
                    "invalid_parameter", f"{where}.source.media_type: of documents, {_PDF} is taken in base64; send "
                    f"texts as a source of type text, {_PLAIN}.",
                    param=f"{where}.source.media_type",
                )  # fmt: skip
            yield FilePart(file=FileData(file_data=_data_uri(data, _PDF)))


def _data_uri(data: str, kind: str) -> str:
    return data if data.startswith("data:") else f"data:{kind};base64,{data}"
