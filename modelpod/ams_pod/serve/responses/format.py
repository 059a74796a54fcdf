"""A response written as OpenAI's API has it: whole, or as its events."""

import secrets
import time
from collections.abc import Iterable
from typing import Literal

import msgspec
from ams_common.dialects import error_event
from ams_common.errors import ApiError
from ams_common.wire import TokenLogprob
from ams_common.wire.responses import (
    Incomplete,
    InputTokensDetails,
    OutputTokensDetails,
    ReasoningConfig,
    Refused,
    Response,
    ResponseCompleted,
    ResponseCreated,
    ResponseFailed,
    ResponseIncomplete,
    ResponseInProgress,
    ResponsesRequest,
    ResponseTextFormat,
    ResponseUsage,
    TextConfig,
)

from ams_pod.serve.degraded import marks
from ams_pod.serve.events import named_event
from ams_pod.serve.generation import Generation
from ams_pod.serve.logprobs import chat_logprobs
from ams_pod.serve.responses.output import COMPLETED, INCOMPLETE, Event, Output
from ams_pod.serve.responses.toolbox import Toolbox
from ams_pod.serve.responses.translating import wants_logprobs
from ams_pod.serve.thinking import Delta

PATH = "/v1/responses"
_SEALED = "reasoning.encrypted_content"


class _Ids:
    """Of a response and its items: an item's begins with its response's, by which a gateway finds it again."""

    def __init__(self) -> None:
        self._response = secrets.token_hex(24)
        self._items = 0

    @property
    def response(self) -> str:
        return f"resp_{self._response}"

    def item(self, prefix: str) -> str:
        self._items += 1
        return f"{prefix}_{self._response}{self._items:04x}"


class ResponsesFormat:
    def __init__(self, request: ResponsesRequest, toolbox: Toolbox) -> None:
        reasoning = request.reasoning or ReasoningConfig()
        ids = _Ids()
        self._output = Output(
            toolbox, ids.item, summarized=reasoning.summary is not None, sealed=_SEALED in (request.include or ())
        )
        self._number = 0
        self._tells_logprobs = wants_logprobs(request)
        self._generation: Generation | None = None
        self._tokens = 0  # whose logprobs have come
        self._begun = Response(
            id=ids.response,
            created_at=int(time.time()),
            status="in_progress",
            instructions=request.instructions,
            max_output_tokens=request.max_output_tokens,
            metadata=request.metadata or {},
            model=request.model,
            output=[],
            parallel_tool_calls=request.parallel_tool_calls is not False,
            previous_response_id=request.previous_response_id,
            reasoning=reasoning,
            store=request.store is not False,
            temperature=request.temperature,
            text=_text(request.text),
            tool_choice=request.tool_choice or "auto",
            tools=list(toolbox.told),
            top_p=request.top_p,
            user=request.user,
        )

    def whole(self, delta: Delta, generation: Generation) -> Response:
        self._generation = generation
        self._output.take(delta, self._logprobs(delta))
        self._output.end(_item_status(generation))
        return self._ended(generation)

    def begin(self, generation: Generation) -> bytes:
        self._generation = generation
        response = self._begun
        return self._events(
            [
                lambda number: ResponseCreated(sequence_number=number, response=response),
                lambda number: ResponseInProgress(sequence_number=number, response=response),
            ]
        )

    def piece(self, delta: Delta) -> bytes:
        return self._events(self._output.take(delta, self._logprobs(delta)))

    def end(self, generation: Generation) -> bytes:
        events = self._output.end(_item_status(generation))
        response = self._ended(generation)
        last = ResponseIncomplete if response.status == "incomplete" else ResponseCompleted
        return self._events([*events, lambda number: last(sequence_number=number, response=response)])

    def failed(self, error: ApiError, request_id: str) -> bytes:
        """The response as far as it came, for clients that wait for its end, and the error, which others raise."""
        response = msgspec.structs.replace(
            self._begun,
            status="failed",
            output=self._output.so_far(),
            error=Refused(code=error.code, message=error.message),
        )
        events = [] if self._number else [lambda number: ResponseCreated(sequence_number=number, response=self._begun)]
        told = self._events([*events, lambda number: ResponseFailed(sequence_number=number, response=response)])
        return told + error_event(error.body(PATH, request_id), PATH, self._number)

    def _logprobs(self, delta: Delta) -> list[TokenLogprob]:
        """Of the text that is new; those of thoughts come first."""
        if not self._tells_logprobs or self._generation is None:
            return []
        thoughts = max(0, self._generation.reasoning_tokens - self._tokens)
        self._tokens += len(delta.logprobs)
        return chat_logprobs(delta.logprobs[thoughts:], self._generation.token_bytes).content

    def _ended(self, generation: Generation) -> Response:
        status: Literal["completed", "incomplete"] = "incomplete" if _is_cut(generation) else "completed"
        return msgspec.structs.replace(
            self._begun,
            status=status,
            incomplete_details=Incomplete() if status == "incomplete" else None,
            output=self._output.items,
            usage=_usage(generation),
            **marks(generation.degraded),
        )

    def _events(self, events: Iterable[Event]) -> bytes:
        written = []
        for event in events:
            written.append(named_event(event(self._number)))
            self._number += 1
        return b"".join(written)


def _is_cut(generation: Generation) -> bool:
    return generation.finish_reason == "length"


def _item_status(generation: Generation) -> str:
    return INCOMPLETE if _is_cut(generation) else COMPLETED


def _text(config: TextConfig | None) -> TextConfig:
    config = config or TextConfig()
    return msgspec.structs.replace(config, format=config.format or ResponseTextFormat(type="text"))


def _usage(generation: Generation) -> ResponseUsage:
    usage = generation.usage
    return ResponseUsage(
        input_tokens=usage.prompt_tokens,
        input_tokens_details=InputTokensDetails(cached_tokens=generation.used.cached_tokens),
        output_tokens=usage.completion_tokens,
        output_tokens_details=OutputTokensDetails(reasoning_tokens=generation.reasoning_tokens),
        total_tokens=usage.total_tokens,
    )
