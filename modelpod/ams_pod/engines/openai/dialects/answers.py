"""Answers in OpenAI's protocol: read fast where they keep to it, and else by what can be made of them. Pure."""

from typing import Any

import msgspec
from ams_common.outside import InvalidJson, read_json

from ams_pod.engines.openai.dialects.vectors import Details, Usage

_MOST_BYTES = 16 << 20
_MOST_TOKENS = 1 << 31


class ChatLogprob(msgspec.Struct):
    token: str = ""
    logprob: float = 0.0
    id: int | None = None
    top_logprobs: list["ChatLogprob"] = []


class CompletionLogprobs(msgspec.Struct):
    """Of a completion; `content` of a chat."""

    content: list[ChatLogprob] | None = None
    tokens: list[str] = []
    token_logprobs: list[float | None] = []
    top_logprobs: list[dict[str, float] | None] | None = None


class PromptLogprob(msgspec.Struct):
    logprob: float = 0.0


class Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None

    @property
    def text(self) -> str | None:
        """What the model wrote: what it thought in front of what it said."""
        thought = self.reasoning_content or self.reasoning
        return thought + (self.content or "") if thought else self.content


class Choice(msgspec.Struct):
    """Of a completion (`text`), a streamed chat (`delta`) or a whole one (`message`)."""

    index: int | None = 0
    text: str | None = None
    delta: Delta | None = None
    message: Delta | None = None
    finish_reason: str | None = None
    token_ids: list[int] | None = None
    logprobs: CompletionLogprobs | None = None
    prompt_logprobs: list[dict[str, PromptLogprob] | None] | None = None


class Chunk(msgspec.Struct):
    """An event of a stream, or a whole answer. `object` is `error` where an error has no field of its own."""

    choices: list[Choice] = []
    usage: Usage | None = None
    error: Any = None
    object: str | None = None

    @property
    def first(self) -> Choice | None:
        """The answer that was asked for: one, whatever else there is."""
        return next((choice for choice in self.choices if not choice.index), None)

    @property
    def failed(self) -> bool:
        return (self.error is not None and self.error is not False) or self.object == "error"


_CHUNKS = msgspec.json.Decoder(Chunk)


def read_chunk(data: bytes) -> Chunk:
    """InvalidJson for what isn't JSON, or can't be an answer."""
    try:
        return _CHUNKS.decode(data)
    except msgspec.ValidationError:
        return _loosely(read_json(data, max_bytes=_MOST_BYTES))
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InvalidJson(f"is not valid JSON: {ascii(str(error))[1:200]}") from None


def counted(number: int | None) -> int | None:
    """A number of tokens; None for one that can't be."""
    return number if number is not None and 0 <= number < _MOST_TOKENS else None


def _loosely(found: Any) -> Chunk:
    """Of JSON whose fields have other types than the protocol gives them."""
    if not isinstance(found, dict):
        raise InvalidJson("is no JSON object")
    choices = found.get("choices")
    told = found.get("object")
    return Chunk(
        choices=[_choice(each) for each in choices if isinstance(each, dict)] if isinstance(choices, list) else [],
        usage=_usage(found.get("usage")),
        error=found.get("error"),
        object=told if isinstance(told, str) else None,
    )


def _choice(found: dict[str, Any]) -> Choice:
    reason = found.get("finish_reason")
    index = found.get("index")
    rest = {name: found.get(name) for name in ("token_ids", "logprobs", "prompt_logprobs")}
    try:
        choice = msgspec.convert(rest, Choice)
    except msgspec.ValidationError as error:
        raise InvalidJson(f"is not what was expected: {ascii(str(error))[1:200]}") from None
    choice.index = int(index) if isinstance(index, int | str) and str(index).isdecimal() and len(str(index)) < 9 else 0
    choice.text = _text(found.get("text"))
    choice.delta, choice.message = _delta(found.get("delta")), _delta(found.get("message"))
    choice.finish_reason = reason if isinstance(reason, str) else None
    return choice


def _delta(found: Any) -> Delta | None:
    if not isinstance(found, dict):
        return None
    return Delta(*(_text(found.get(name)) for name in ("content", "reasoning_content", "reasoning")))


def _text(found: Any) -> str | None:
    """A text, or the parts of one. InvalidJson for what is neither."""
    if found is None or isinstance(found, str):
        return found
    if isinstance(found, list):
        return "".join(_text(part.get("text") if isinstance(part, dict) else part) or "" for part in found)
    raise InvalidJson("has something else where a text belongs")


def _usage(found: Any) -> Usage | None:
    if not isinstance(found, dict):
        return None
    details = found.get("prompt_tokens_details")
    usage = Usage(_whole(found.get("prompt_tokens")), _whole(found.get("completion_tokens")))
    if isinstance(details, dict):
        usage.prompt_tokens_details = Details(_whole(details.get("cached_tokens")))
    return usage


def _whole(found: Any) -> int | None:
    if isinstance(found, float) and found.is_integer():
        return int(found)
    return found if type(found) is int else None
