"""Calls of tools in the messages of a chat: each with its result behind it, as chat templates want them."""

import secrets
from collections.abc import Sequence
from typing import Any

import msgspec
from ams_common.errors import ApiError
from ams_common.wire import Message, ToolCall

Extras = dict[str, Any]
"""What a message has beside its role and content, as `Engine.prepare_chat` takes it."""


def extras_of(messages: Sequence[Message]) -> list[Extras]:
    """Of each message. ApiError for a call that makes no sense, and for a result of none."""
    extras: list[Extras] = []
    names: dict[str, str] = {}  # of the functions that were called, by the calls' ids
    waiting: list[str] = []  # calls of the older form, and without a result
    for index, message in enumerate(messages):
        field = f"messages[{index}]"
        extra: Extras = {}
        if thoughts := message.reasoning_content or message.reasoning:
            extra["reasoning_content"] = thoughts
        if message.role in ("tool", "function"):
            call_id = message.tool_call_id or (waiting[0] if waiting else "")
            if message.role == "tool" and message.tool_call_id is None and len(waiting) != 1:
                raise _wrong(f"{field}.tool_call_id", "which call this is the result of must be told.")
            if call_id not in names:
                raise _wrong(f"{field}.tool_call_id", "no earlier message of the assistant has a call with this id.")
            if call_id in waiting:
                waiting.remove(call_id)
            extra |= {"tool_call_id": call_id, "name": message.name or names[call_id]}
        elif calls := list(message.tool_calls or ()) or _older(message):
            if message.role != "assistant":
                raise _wrong(f"{field}.tool_calls", "only the assistant calls tools.")
            extra["tool_calls"] = [_as_object(call, f"{field}.tool_calls[{at}]") for at, call in enumerate(calls)]
            names |= {call.id: call.function.name for call in calls}
            waiting = [call.id for call in calls]
        extras.append(extra)
    return extras


def _older(message: Message) -> list[ToolCall]:
    if message.function_call is None:
        return []
    return [ToolCall(id=f"call_{secrets.token_hex(12)}", function=message.function_call)]


def _as_object(call: ToolCall, field: str) -> dict[str, Any]:
    """With its arguments as an object, as templates want them."""
    text = call.function.arguments
    try:
        arguments = msgspec.json.decode(text, type=dict[str, Any]) if text.strip() else {}
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        raise _wrong(f"{field}.function.arguments", "must be an object in JSON.") from None
    return {"id": call.id, "type": "function", "function": {"name": call.function.name, "arguments": arguments}}


def _wrong(field: str, sentence: str) -> ApiError:
    return ApiError("invalid_parameter", f"{field}: {sentence}", param=field)
