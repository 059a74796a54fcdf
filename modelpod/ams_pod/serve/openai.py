"""OpenAI's API for one model: chat and text completions, whole and streamed."""

import secrets
import time
from typing import Any

import msgspec
from aiohttp import web
from ams_common.errors import ApiError
from ams_common.request_body import RequestReader
from ams_common.wire import (
    ChatChoice,
    ChatChunk,
    ChatDelta,
    ChatDeltaChoice,
    ChatMessage,
    ChatRequest,
    ChatResponse,
    CompletionChoice,
    CompletionRequest,
    CompletionResponse,
    CompletionTokensDetails,
    PromptTokensDetails,
    Usage,
)

from ams_pod.serve.answering import GenerationJob, answer
from ams_pod.serve.chat import receive_chat, sampler
from ams_pod.serve.degraded import marks
from ams_pod.serve.events import event
from ams_pod.serve.generation import Generation
from ams_pod.serve.keys import POD
from ams_pod.serve.models import check_model
from ams_pod.serve.parameters import stop_list
from ams_pod.serve.reading import json_body
from ams_pod.serve.thinking import Delta

_CHAT = RequestReader(ChatRequest)
_COMPLETION = RequestReader(CompletionRequest)


async def chat_completions(request: web.Request) -> web.StreamResponse:
    pod = request.app[POD]
    with pod.intake.spool() as spool:
        async with json_body(request, _CHAT, pod) as (fields, ignored):
            received = await receive_chat(request, spool, fields, ignored)
            del fields
        return await answer(request, received.job(_ChatFormat(received.fields)))


async def completions(request: web.Request) -> web.StreamResponse:
    pod = request.app[POD]
    async with json_body(request, _COMPLETION, pod) as (fields, ignored):
        check_model(pod, fields.model)
        prompt = _single_prompt(fields.prompt)
    job = GenerationJob(
        prepare=lambda engine, _: (
            engine.prepare_text(prompt) if isinstance(prompt, str) else engine.prepare_ids(prompt)
        ),
        sampling=sampler(pod, fields, fields.max_tokens),
        stops=stop_list(fields.stop),
        stream=bool(fields.stream),
        format=_CompletionFormat(fields),
        ignored=ignored,
        raw=True,
        cache_salt=fields.cache_salt or "",
    )
    return await answer(request, job)


def _single_prompt(prompt: str | list[str | int | list[int]]) -> str | list[int]:
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], str | list):
        if len(prompt) > 1:
            raise ApiError("invalid_parameter", "prompt: one prompt a request is supported.", param="prompt")
        return _single_prompt(prompt[0])  # type: ignore[arg-type]  # one level deeper: a text or ids
    if not prompt:
        raise ApiError("missing_prompt", "prompt must not be empty.", param="prompt")
    if isinstance(prompt, str):
        return prompt
    ids = [token for token in prompt if isinstance(token, int)]
    if len(ids) != len(prompt):
        raise ApiError("invalid_parameter", "prompt: expected one text or one list of token ids.", param="prompt")
    return ids


def _usage(generation: Generation) -> Usage:
    return msgspec.structs.replace(
        generation.usage,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=generation.cached_tokens),
        completion_tokens_details=CompletionTokensDetails(reasoning_tokens=generation.reasoning_tokens),
    )


def _envelope(prefix: str, model: str) -> dict[str, Any]:
    return {"id": f"{prefix}-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}


class _ChatFormat:
    def __init__(self, fields: ChatRequest) -> None:
        self._base: dict[str, Any] = _envelope("chatcmpl", fields.model)
        self._include_usage = bool(fields.stream_options and fields.stream_options.include_usage)

    def whole(self, delta: Delta, generation: Generation) -> ChatResponse:
        thinking = delta.thinking or None
        message = ChatMessage(role="assistant", content=delta.content, reasoning_content=thinking, reasoning=thinking)
        choice = ChatChoice(message=message, finish_reason=generation.finish_reason or "stop")
        return ChatResponse(choices=[choice], usage=_usage(generation), **self._base, **marks(generation.degraded))

    def begin(self) -> bytes:
        return self._chunk(ChatDelta(role="assistant", content=""))

    def piece(self, delta: Delta) -> bytes:
        thinking = delta.thinking or None
        return self._chunk(ChatDelta(content=delta.content or None, reasoning_content=thinking, reasoning=thinking))

    def end(self, generation: Generation) -> bytes:
        result = event(
            ChatChunk(
                choices=[ChatDeltaChoice(delta=ChatDelta(), finish_reason=generation.finish_reason or "stop")],
                **self._base,
                **marks(generation.degraded),
            )
        )
        if self._include_usage:
            result += event(ChatChunk(choices=[], usage=_usage(generation), **self._base))
        return result

    def _chunk(self, delta: ChatDelta) -> bytes:
        return event(ChatChunk(choices=[ChatDeltaChoice(delta=delta)], **self._base))


class _CompletionFormat:
    def __init__(self, fields: CompletionRequest) -> None:
        self._base: dict[str, Any] = _envelope("cmpl", fields.model)
        self._include_usage = bool(fields.stream_options and fields.stream_options.include_usage)

    def whole(self, delta: Delta, generation: Generation) -> CompletionResponse:
        choice = CompletionChoice(text=delta.content, finish_reason=generation.finish_reason or "stop")
        return CompletionResponse(
            choices=[choice], usage=_usage(generation), **self._base, **marks(generation.degraded)
        )

    def begin(self) -> bytes:
        return b""

    def piece(self, delta: Delta) -> bytes:
        return event(CompletionResponse(choices=[CompletionChoice(text=delta.content)], **self._base))

    def end(self, generation: Generation) -> bytes:
        choice = CompletionChoice(text="", finish_reason=generation.finish_reason or "stop")
        result = event(CompletionResponse(choices=[choice], **self._base, **marks(generation.degraded)))
        if self._include_usage:
            result += event(CompletionResponse(choices=[], usage=_usage(generation), **self._base))
        return result
