"""A request for a response as a chat. Pure."""

import base64
import binascii
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from ams_common.errors import ApiError
from ams_common.parsing import explain
from ams_common.wire import (
    AudioPart,
    ChatRequest,
    ContentPart,
    FileData,
    FilePart,
    ImagePart,
    ImageUrl,
    TextPart,
)
from ams_common.wire.presence import empty_input
from ams_common.wire.responses import (
    InputAudioPart,
    InputFile,
    InputImage,
    InputItem,
    InputPart,
    InputText,
    OutputTextInput,
    ReasoningText,
    RefusalInput,
    ResponsesRequest,
    ResponseTextFormat,
)
from ams_common.wire.structured import JsonObjectFormat, JsonSchema, JsonSchemaFormat, ResponseFormat

from ams_pod.serve.conversation import Conversation, sampling_fields
from ams_pod.serve.responses.toolbox import Toolbox, custom_arguments, function_name, toolbox_of

_SEALED = "ams-1."  # what the thoughts begin with that clients send back unread


@dataclass(frozen=True, slots=True)
class Translation:
    """The chat that a request stands for, its tools, and where in the request each message is from."""

    chat: ChatRequest
    toolbox: Toolbox
    places: Sequence[str]


def to_chat(request: ResponsesRequest) -> Translation:
    """ApiError for items that make no sense, and for tools that nobody here runs."""
    if request.previous_response_id is not None and request.previous_items is None:
        raise ApiError(
            "previous_response_not_found",
            "previous_response_id: a model's own process keeps no responses; the gateway does.",
            param="previous_response_id",
        )
    toolbox = toolbox_of(request)
    conversation = Conversation()
    if request.instructions:
        conversation.system([TextPart(request.instructions)], "instructions")
    for index, item in enumerate(_previous(request.previous_items or ())):
        _add(conversation, item, f"previous_items[{index}]")
    if isinstance(request.input, str):
        if request.input:
            conversation.user([TextPart(request.input)], "input")
    else:
        for index, item in enumerate(request.input):
            _add(conversation, item, f"input[{index}]")
    conversation.end()
    if not conversation.messages:
        raise empty_input()
    fields = sampling_fields(request)
    chat = ChatRequest(
        **fields,
        model=request.model,
        messages=conversation.messages,
        max_completion_tokens=request.max_output_tokens,
        stream=request.stream,
        tools=list(toolbox.functions) or None,
        tool_choice=toolbox.choice if toolbox.functions else None,
        parallel_tool_calls=request.parallel_tool_calls,
        logprobs=wants_logprobs(request) or None,
        top_logprobs=request.top_logprobs or None,
        response_format=_response_format(request),
        reasoning_effort=request.reasoning.effort if request.reasoning is not None else None,
    )
    return Translation(chat, toolbox, conversation.places)


def _response_format(request: ResponsesRequest) -> ResponseFormat | None:
    match request.text.format if request.text is not None else None:
        case ResponseTextFormat(type="json_object"):
            return JsonObjectFormat()
        case ResponseTextFormat(type="json_schema", name=name, schema=schema, strict=strict):
            if schema is None:
                raise ApiError("invalid_parameter", "text.format.schema: is required.", param="text.format.schema")
            return JsonSchemaFormat(json_schema=JsonSchema(name=name, schema=schema, strict=strict))
    return None


def wants_logprobs(request: ResponsesRequest) -> bool:
    """Whether the answer tells how likely its tokens are."""
    return bool(request.top_logprobs) or "message.output_text.logprobs" in (request.include or ())


def sealed(thought: str) -> str:
    """What was thought, for clients that send it back as `encrypted_content`; nobody is to read it on the way."""
    return _SEALED + base64.b64encode(thought.encode("utf-8", "surrogatepass")).decode()


def unsealed(text: str) -> str:
    """What `sealed` was given; empty where another server made it."""
    if not text.startswith(_SEALED):
        return ""
    try:
        return base64.b64decode(text.removeprefix(_SEALED), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""


def _previous(items: Sequence[Any]) -> list[InputItem]:
    """Those that the gateway kept, as they came."""
    try:
        converted: list[InputItem] = msgspec.convert(items, list[InputItem])
        return converted
    except msgspec.ValidationError as error:
        where, sentence = explain(error)
        place = f"previous_items{where}"
        raise ApiError("invalid_parameter", f"{place}: {sentence}.", param=place) from None


def _add(conversation: Conversation, item: InputItem, place: str) -> None:
    match item.type:
        case "reasoning":
            if thought := _thought(item):
                conversation.think(thought, place)
        case "function_call":
            name = function_name(_required(item.name, place, "name"), item.namespace)
            arguments = "{}" if item.arguments is None else item.arguments or "{}"
            conversation.call(_required(item.call_id, place, "call_id"), name, arguments, place)
        case "custom_tool_call":
            name = function_name(_required(item.name, place, "name"), item.namespace)
            conversation.call(
                _required(item.call_id, place, "call_id"), name, custom_arguments(item.input or ""), place
            )
        case "function_call_output" | "custom_tool_call_output":
            output = _required(item.output, place, "output")
            parts = [TextPart(output)] if isinstance(output, str) else list(_parts(output, f"{place}.output"))
            conversation.result(_required(item.call_id, place, "call_id"), parts, place)
        case _:
            _add_message(conversation, item, place)


def _add_message(conversation: Conversation, item: InputItem, place: str) -> None:
    content = _required(item.content, place, "content")
    match _required(item.role, place, "role"):
        case "assistant":
            conversation.say(content if isinstance(content, str) else _text(content, f"{place}.content"), place)
        case "user":
            parts = [TextPart(content)] if isinstance(content, str) else list(_parts(content, f"{place}.content"))
            conversation.user(parts, place)
        case _:
            parts = [TextPart(content)] if isinstance(content, str) else list(_parts(content, f"{place}.content"))
            conversation.system(parts, place)


def _thought(item: InputItem) -> str:
    """Of what is there, what comes closest to what was thought."""
    content = [TextPart(item.content)] if isinstance(item.content, str) else item.content or ()
    told = "".join(part.text for part in content if isinstance(part, ReasoningText | TextPart))
    return told or unsealed(item.encrypted_content or "") or "\n".join(part.text for part in item.summary or ())


def _text(parts: Sequence[InputPart], place: str) -> str:
    texts = []
    for index, part in enumerate(parts):
        match part:
            case RefusalInput(refusal=text):
                texts.append(text)
            case InputText(text=text) | OutputTextInput(text=text) | TextPart(text=text):
                texts.append(text)
            case _:
                raise ApiError(
                    "invalid_parameter", f"{place}[{index}]: the assistant says texts alone.",
                    param=f"{place}[{index}]",
                )  # fmt: skip
    return "".join(texts)


def _parts(parts: Sequence[InputPart], place: str) -> Iterator[ContentPart]:
    for index, part in enumerate(parts):
        match part:
            case InputImage(image_url=str(url), detail=detail):
                yield ImagePart(image_url=ImageUrl(url=url, detail=detail))
            case InputFile(file_data=str(data), filename=name):
                yield FilePart(file=FileData(file_data=data, filename=name))
            case InputFile(file_url=str(url), filename=name):
                yield FilePart(file=FileData(file_data=url, filename=name))
            case InputImage() | InputFile():
                raise _no_upload(part, f"{place}[{index}]")
            case InputAudioPart(input_audio=audio):
                yield AudioPart(input_audio=audio)
            case RefusalInput(refusal=text):
                yield TextPart(text)
            case _:
                yield TextPart(part.text)


def _no_upload(part: InputImage | InputFile, place: str) -> ApiError:
    instead = "image_url" if isinstance(part, InputImage) else "file_data"
    if part.file_id is not None:
        sentence = f"{place}.file_id: files can't be uploaded beforehand; put it into {instead}."
        return ApiError("invalid_parameter", sentence, param=f"{place}.file_id")
    return ApiError("invalid_parameter", f"{place}.{instead}: is required.", param=f"{place}.{instead}")


def _required(value: Any, place: str, name: str) -> Any:
    if value is None:
        raise ApiError("invalid_parameter", f"{place}.{name}: is required.", param=f"{place}.{name}")
    return value
