"""How OpenAI's API writes answers: of chats and of texts, whole and streamed, one or several."""

import secrets
import time
from collections.abc import Sequence
from typing import Any

from ams_common.wire import (
    ChatChoice,
    ChatChunk,
    ChatDelta,
    ChatDeltaChoice,
    ChatFinishReason,
    ChatLogprobs,
    ChatMessage,
    ChatRequest,
    ChatResponse,
    CompletionChoice,
    CompletionLogprobs,
    CompletionRequest,
    CompletionResponse,
    CompletionTokensDetails,
    FunctionCall,
    FunctionCallDelta,
    PromptTokensDetails,
    ToolCall,
    ToolCallDelta,
    Usage,
)
from msgspec import UNSET

from ams_pod.serve.choices import ChoicesFormat
from ams_pod.serve.degraded import marks
from ams_pod.serve.events import event
from ams_pod.serve.generation import Generation
from ams_pod.serve.logprobs import chat_logprobs, completion_logprobs, prompt_logprobs
from ams_pod.serve.template_arguments import tells_thoughts
from ams_pod.serve.thinking import CallDelta, Delta

Answers = Sequence[tuple[Delta, Generation]]


class ChatFormat(ChoicesFormat):
    def __init__(self, fields: ChatRequest) -> None:
        self._base = _envelope("chatcmpl", fields)
        self._include_usage = bool(fields.stream_options and fields.stream_options.include_usage)
        self._thoughts = tells_thoughts(fields)
        self._older = bool(fields.functions)
        self._logprobs = bool(fields.logprobs)
        self._prompt_logprobs = fields.prompt_logprobs is not None

    def whole_of(self, answers: Answers, generations: Sequence[Generation]) -> ChatResponse:
        first = answers[0][1]
        told = prompt_logprobs(first.prompt_ids, first.prompt_logprobs, first.token_bytes)
        return ChatResponse(
            choices=[self._choice(index, delta, generation) for index, (delta, generation) in enumerate(answers)],
            usage=usage_of(generations),
            prompt_logprobs=told if self._prompt_logprobs else UNSET,
            **self._base,
            **marks(first.degraded),
        )

    def _choice(self, index: int, delta: Delta, generation: Generation) -> ChatChoice:
        thinking = (delta.thinking if self._thoughts else "") or None
        calls = _calls(delta.calls)
        message = ChatMessage(
            role="assistant",
            content=delta.content if delta.content or not calls else None,
            reasoning_content=thinking,
            reasoning=thinking,
            tool_calls=None if self._older else calls or None,
            function_call=calls[0].function if self._older and calls else None,
        )
        return ChatChoice(
            index=index,
            message=message,
            logprobs=self._logprobs_of(delta, generation),
            finish_reason=self._reason(generation),
        )

    def begin_all(self, generations: Sequence[Generation]) -> bytes:
        first = ChatDelta(role="assistant", content="")
        return b"".join(self._chunk(index, first) for index in range(len(generations)))

    def piece_of(self, index: int, delta: Delta, generation: Generation) -> bytes:
        thinking = (delta.thinking if self._thoughts else "") or None
        logprobs = self._logprobs_of(delta, generation) if delta.logprobs else None
        result = b""
        if delta.content or thinking or (logprobs is not None and not delta.calls):
            new = ChatDelta(content=delta.content or None, reasoning_content=thinking, reasoning=thinking)
            result, logprobs = self._chunk(index, new, logprobs), None
        if delta.calls:
            result += self._chunk(index, self._calls_delta(delta.calls), logprobs)
        return result

    def _calls_delta(self, calls: Sequence[CallDelta]) -> ChatDelta:
        if self._older:
            name = "".join(call.name for call in calls) or None
            arguments = "".join(call.arguments for call in calls)
            return ChatDelta(function_call=FunctionCallDelta(name=name, arguments=arguments))
        return ChatDelta(tool_calls=[_call_delta(call) for call in _merged(calls)])

    def end_of(self, index: int, generation: Generation) -> bytes:
        choice = ChatDeltaChoice(index=index, delta=ChatDelta(), finish_reason=self._reason(generation))
        return event(ChatChunk(choices=[choice], **self._base, **marks(generation.degraded)))

    def end_all(self, generations: Sequence[Generation]) -> bytes:
        if not self._include_usage:
            return b""
        return event(ChatChunk(choices=[], usage=usage_of(generations), **self._base))

    def _chunk(self, index: int, delta: ChatDelta, logprobs: ChatLogprobs | None = None) -> bytes:
        return event(ChatChunk(choices=[ChatDeltaChoice(index=index, delta=delta, logprobs=logprobs)], **self._base))

    def _logprobs_of(self, delta: Delta, generation: Generation) -> ChatLogprobs | None:
        return chat_logprobs(delta.logprobs, generation.token_bytes) if self._logprobs else None

    def _reason(self, generation: Generation) -> ChatFinishReason:
        reason = generation.finish_reason or "stop"
        return "function_call" if self._older and reason == "tool_calls" else reason


class CompletionFormat(ChoicesFormat):
    """`prompts` are those of the request, each of which has `n` answers."""

    def __init__(self, fields: CompletionRequest, prompts: Sequence[str | list[int]]) -> None:
        self._base = _envelope("cmpl", fields)
        self._include_usage = bool(fields.stream_options and fields.stream_options.include_usage)
        self._prompts = prompts
        self._each = fields.n or 1
        self._echo = bool(fields.echo)
        asked = fields.logprobs
        self._top = None if asked is None or asked is False else int(asked)
        self._prompt_logprobs = fields.prompt_logprobs is not None
        self._offsets: dict[int, int] = {}  # where the text of an answer's next token begins, by its number

    def whole_of(self, answers: Answers, generations: Sequence[Generation]) -> CompletionResponse:
        choices = []
        for index, (delta, generation) in enumerate(answers):
            echoed = self._echoed(index, generation)
            choices.append(
                CompletionChoice(
                    index=index,
                    text=echoed + delta.content,
                    logprobs=self._logprobs_of(index, delta, generation, with_prompt=self._echo),
                    finish_reason=generation.finish_reason or "stop",
                    prompt_logprobs=self._of_prompt(generation) if self._prompt_logprobs else UNSET,
                )
            )
        usage = usage_of(generations)
        return CompletionResponse(choices=choices, usage=usage, **self._base, **marks(answers[0][1].degraded))

    def begin_all(self, generations: Sequence[Generation]) -> bytes:
        return b""

    def piece_of(self, index: int, delta: Delta, generation: Generation) -> bytes:
        first = index not in self._offsets
        text = self._echoed(index, generation) + delta.content if first else delta.content
        logprobs = self._logprobs_of(index, delta, generation, with_prompt=self._echo and first)
        choice = CompletionChoice(index=index, text=text, logprobs=logprobs)
        return event(CompletionResponse(choices=[choice], **self._base))

    def end_of(self, index: int, generation: Generation) -> bytes:
        result = self.piece_of(index, Delta(), generation) if self._echo and index not in self._offsets else b""
        choice = CompletionChoice(
            index=index,
            text="",
            finish_reason=generation.finish_reason or "stop",
            prompt_logprobs=self._of_prompt(generation) if self._prompt_logprobs else UNSET,
        )
        return result + event(CompletionResponse(choices=[choice], **self._base, **marks(generation.degraded)))

    def end_all(self, generations: Sequence[Generation]) -> bytes:
        if not self._include_usage:
            return b""
        return event(CompletionResponse(choices=[], usage=usage_of(generations), **self._base))

    def _echoed(self, index: int, generation: Generation) -> str:
        """The prompt, as it was sent; of token ids their text."""
        self._offsets.setdefault(index, 0)
        if not self._echo:
            return ""
        prompt = self._prompts[index // self._each]
        return prompt if isinstance(prompt, str) else generation.text_of(prompt)

    def _logprobs_of(
        self, index: int, delta: Delta, generation: Generation, *, with_prompt: bool
    ) -> CompletionLogprobs | None:
        if self._top is None:
            return None
        self._offsets.setdefault(index, 0)
        tokens: list[Any] = list(generation.prompt_logprobs) if with_prompt else []
        ids = list(generation.prompt_ids) if with_prompt else []
        told = completion_logprobs(
            [*ids, *(each.token for each in delta.logprobs)],
            [*tokens, *delta.logprobs],
            generation.token_bytes,
            top=self._top,
            offset=self._offsets[index],
        )
        self._offsets[index] += sum(map(len, told.tokens))
        return told

    def _of_prompt(self, generation: Generation) -> Any:
        return prompt_logprobs(generation.prompt_ids, generation.prompt_logprobs, generation.token_bytes)


def usage_of(generations: Sequence[Generation]) -> Usage:
    """Of all answers; each prompt counts once."""
    prompt = sum(each.usage.prompt_tokens for each in generations if each.counts_prompt)
    answers = sum(each.completion_tokens for each in generations)
    return Usage(
        prompt,
        answers,
        prompt + answers,
        prompt_tokens_details=PromptTokensDetails(
            cached_tokens=sum(each.cached_tokens for each in generations if each.counts_prompt)
        ),
        completion_tokens_details=CompletionTokensDetails(
            reasoning_tokens=sum(each.reasoning_tokens for each in generations)
        ),
    )


def _envelope(prefix: str, fields: ChatRequest | CompletionRequest) -> dict[str, Any]:
    base = {"id": f"{prefix}-{secrets.token_hex(12)}", "created": int(time.time()), "model": fields.model}
    return base if fields.service_tier is None else base | {"service_tier": fields.service_tier}


def _calls(deltas: Sequence[CallDelta]) -> list[ToolCall]:
    """Whole calls of their pieces."""
    return [
        ToolCall(id=each.id, function=FunctionCall(name=each.name, arguments=each.arguments))
        for each in _merged(deltas)
    ]


def _merged(deltas: Sequence[CallDelta]) -> list[CallDelta]:
    """One piece a call."""
    merged: dict[int, CallDelta] = {}
    for delta in deltas:
        known = merged.get(delta.index, CallDelta(delta.index))
        merged[delta.index] = CallDelta(
            delta.index, known.id or delta.id, known.name or delta.name, known.arguments + delta.arguments
        )
    return list(merged.values())


def _call_delta(call: CallDelta) -> ToolCallDelta:
    function = FunctionCallDelta(name=call.name or None, arguments=call.arguments)
    if not call.id:
        return ToolCallDelta(index=call.index, function=function)
    return ToolCallDelta(index=call.index, id=call.id, type="function", function=function)
