"""A message written as Anthropic's API has it: whole, or as its events."""

import base64
import hashlib
import secrets
from collections.abc import Iterator
from typing import Any, Literal

import msgspec
from ams_common.wire.messages import (
    BlockDelta,
    BlockStart,
    BlockStop,
    InputJsonDelta,
    MessageDelta,
    MessageEnd,
    MessageOutputDetails,
    MessageResponse,
    MessagesRequest,
    MessageStart,
    MessageStop,
    MessageUsage,
    OutputBlock,
    Ping,
    SignatureDelta,
    StopReason,
    TextBlock,
    TextDelta,
    ThinkingBlock,
    ThinkingDelta,
    ToolUseBlock,
)

from ams_pod.serve.degraded import marks
from ams_pod.serve.events import named_event
from ams_pod.serve.generation import Generation
from ams_pod.serve.thinking import CallDelta, Delta

_UNSHOWN_TO_A_PING = 32

Shown = Literal["no", "empty", "whole"]


def new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(12)}"


def shown_thinking(request: MessagesRequest) -> Shown:
    """What of a model's thoughts the message has: who asks for none gets none, whatever the model does."""
    thinking = request.thinking
    if thinking is None or thinking.type == "disabled":
        return "no"
    return "empty" if thinking.display == "omitted" else "whole"


class MessagesFormat:
    def __init__(self, model: str, thinking: Shown) -> None:
        self._id, self._model, self._thinking = new_id("msg"), model, thinking
        self._unshown = 0
        self._blank = ""  # white space that belongs to a text, if there is one
        self._index = -1
        self._kind: object = None  # what the open block is: which call, or what else
        self._thought = ""

    def whole(self, delta: Delta, generation: Generation) -> MessageResponse:
        reason, sequence = _stop(generation)
        return msgspec.structs.replace(
            self._message(generation),
            content=list(self._blocks(delta)),
            stop_reason=reason,
            stop_sequence=sequence,
            usage=_usage(generation),
            **marks(generation.degraded),
        )

    def begin(self, generation: Generation) -> bytes:
        return named_event(MessageStart(message=self._message(generation))) + named_event(Ping())

    def piece(self, delta: Delta) -> bytes:
        events = b""
        if delta.thinking and self._thinking != "no":
            events += self._open("thinking", ThinkingBlock(thinking="", signature=""))
            self._thought += delta.thinking
            if self._thinking == "whole":
                events += self._delta(ThinkingDelta(thinking=delta.thinking))
        elif delta.thinking:
            self._unshown += 1
            if self._unshown % _UNSHOWN_TO_A_PING == 0:  # nobody is to take the connection for dead
                events += named_event(Ping())
        if delta.content and self._kind != "text" and not delta.content.strip():
            self._blank += delta.content
        elif delta.content:
            text, self._blank = self._blank + delta.content, ""
            events += self._open("text", TextBlock(text="")) + self._delta(TextDelta(text=text))
        for call in delta.calls:
            self._blank = ""
            events += self._open(("call", call.index), _called(call))
            if call.arguments:
                events += self._delta(InputJsonDelta(partial_json=call.arguments))
        return events

    def end(self, generation: Generation) -> bytes:
        reason, sequence = _stop(generation)
        last = MessageDelta(
            delta=MessageEnd(stop_reason=reason, stop_sequence=sequence),
            usage=_usage(generation),
            **marks(generation.degraded),
        )
        return self._close() + named_event(last) + named_event(MessageStop())

    def _message(self, generation: Generation) -> MessageResponse:
        return MessageResponse(id=self._id, model=self._model, content=[], usage=_usage(generation))

    def _open(self, kind: object, block: OutputBlock) -> bytes:
        if self._kind == kind:
            return b""
        closed = self._close()
        self._index, self._kind = self._index + 1, kind
        return closed + named_event(BlockStart(index=self._index, content_block=block))

    def _close(self) -> bytes:
        if self._kind is None:
            return b""
        signed = self._delta(SignatureDelta(signature=_signature(self._thought))) if self._kind == "thinking" else b""
        self._kind, self._thought = None, ""
        return signed + named_event(BlockStop(index=self._index))

    def _delta(self, delta: TextDelta | ThinkingDelta | SignatureDelta | InputJsonDelta) -> bytes:
        return named_event(BlockDelta(index=self._index, delta=delta))

    def _blocks(self, delta: Delta) -> Iterator[OutputBlock]:
        if delta.thinking and self._thinking != "no":
            shown = delta.thinking if self._thinking == "whole" else ""
            yield ThinkingBlock(thinking=shown, signature=_signature(delta.thinking))
        if delta.content.strip():
            yield TextBlock(text=delta.content)
        arguments: dict[int, str] = {}
        begun: dict[int, CallDelta] = {}
        for call in delta.calls:
            begun.setdefault(call.index, call)
            arguments[call.index] = arguments.get(call.index, "") + call.arguments
        for index, call in begun.items():
            yield msgspec.structs.replace(_called(call), input=_object(arguments[index]))


def _called(call: CallDelta) -> ToolUseBlock:
    return ToolUseBlock(id=call.id or new_id("toolu"), name=call.name, input={})


def _object(arguments: str) -> dict[str, Any]:
    """What a tool is called with; arguments that are cut off, or no object, can't be told as one."""
    try:
        return msgspec.json.decode(arguments, type=dict[str, Any])
    except msgspec.DecodeError:
        return {}


def _signature(thought: str) -> str:
    """Clients send thoughts back only with one; it isn't checked."""
    return base64.b64encode(hashlib.sha256(thought.encode("utf-8", "surrogatepass")).digest()).decode()


def _stop(generation: Generation) -> tuple[StopReason, str | None]:
    if generation.finish_reason == "tool_calls":
        return "tool_use", None
    if generation.stopped_by is not None:
        return "stop_sequence", generation.stopped_by
    return ("max_tokens" if generation.finish_reason == "length" else "end_turn"), None


def _usage(generation: Generation) -> MessageUsage:
    usage, cached = generation.usage, generation.used.cached_tokens
    return MessageUsage(
        input_tokens=usage.prompt_tokens - cached,
        cache_read_input_tokens=cached,
        output_tokens=usage.completion_tokens,
        output_tokens_details=MessageOutputDetails(thinking_tokens=generation.reasoning_tokens),
    )
