"""How many tokens a request asks for, before a pod has counted them: what limits reserve until its answer tells."""

import contextlib
from dataclasses import dataclass
from typing import Any

import msgspec
from ams_common.outside import InvalidJson, read_json
from ams_common.wire import MessagesRoutingFields, ResponsesRoutingFields, RoutingFields
from ams_common.wire.service import PeekPart

from ams_gateway.front.body import Body, WholeBody

_BYTES_PER_TOKEN = 4  # of text in JSON, roughly, over languages and tokenizers
_MEDIUM_TOKENS = 500
_MESSAGE_TOKENS = 4
_DEFAULT_ANSWER_TOKENS = 1024  # of a request that names no limit, where the model's own isn't known
_MOST = 1 << 40
_MOST_BYTES = 64 << 20
_ARRAY = b"["
_MOST_ANSWERS = 128
_LIST: "msgspec.json.Decoder[list[msgspec.Raw]]" = msgspec.json.Decoder(list[msgspec.Raw])


@dataclass(frozen=True, slots=True)
class AskedTokens:
    """Of the prompt, roughly, and of the answer at most."""

    prompt: int = 0
    answer: int = 0

    @property
    def total(self) -> int:
        return min(self.prompt + self.answer, _MOST)


NOT_COUNTED = AskedTokens()


class _Generate(msgspec.Struct, frozen=True):
    prompt: msgspec.Raw = msgspec.Raw()
    system: msgspec.Raw = msgspec.Raw()
    max_new_tokens: Any = None
    image: msgspec.Raw = msgspec.Raw()
    audio: msgspec.Raw = msgspec.Raw()
    video: msgspec.Raw = msgspec.Raw()


def asked_on_v1(fields: RoutingFields, body: Body, most_new_tokens: int | None) -> AskedTokens:
    """What a chat or completion may come to; `most_new_tokens` is the model's own limit, if known."""
    size, media = _size_of(fields.prompt) + len(bytes(fields.tools)), 0
    for message in fields.messages:
        if isinstance(message.content, str):
            size += len(message.content)
        elif message.content is not None:
            for part in message.content:
                size += len(bytes(part.text))
                media += part.type not in ("text", "refusal")
    given = fields.max_completion_tokens if fields.max_completion_tokens is not None else fields.max_tokens
    asked = _asked(size, len(fields.messages), media, given, body, most_new_tokens)
    return AskedTokens(asked.prompt, asked.answer * _answers(fields))


def _answers(fields: RoutingFields) -> int:
    """How many answers a request asks for, in all."""
    each = max((number for number in (fields.n, fields.best_of) if type(number) is int), default=1)
    data = bytes(fields.prompt)
    prompts = 1
    if data[:1] == _ARRAY and data[1:].lstrip()[:1] in (b'"', b"["):
        with contextlib.suppress(msgspec.DecodeError):  # the pod refuses it
            prompts = len(_LIST.decode(data))
    return max(1, min(each, _MOST_ANSWERS)) * max(1, min(prompts, _MOST_ANSWERS))


def asked_on_responses(
    fields: ResponsesRoutingFields, before: int, body: Body, most_new_tokens: int | None
) -> AskedTokens:
    """As `asked_on_v1`, of a response; `before` are the bytes of what it goes on from."""
    size, media = before + len(bytes(fields.instructions)) + len(bytes(fields.tools)), 0
    items = [] if isinstance(fields.input, str) else fields.input
    size += len(fields.input) if isinstance(fields.input, str) else 0
    for item in items:
        size += len(item.arguments or "") + len(item.input or "")
        for content in (item.content, item.output):
            if isinstance(content, str):
                size += len(content)
            elif content is not None:
                size += sum(len(bytes(part.text)) for part in content)
                media += sum(part.type in ("input_image", "input_file", "input_audio") for part in content)
    return _asked(size, len(items), media, fields.max_output_tokens, body, most_new_tokens)


def asked_on_messages(fields: MessagesRoutingFields, body: Body, most_new_tokens: int | None) -> AskedTokens:
    """As `asked_on_v1`, of a message of Anthropic's API."""
    size, media = len(bytes(fields.system)) + len(bytes(fields.tools)), 0
    for turn in fields.messages:
        if isinstance(turn.content, str):
            size += len(turn.content)
            continue
        for block in turn.content:
            size += len(bytes(block.text)) + len(bytes(block.input))
            media += block.type in ("image", "document")
            inner = _parts(block.content)
            size += sum(len(bytes(part.text)) for part in inner) if inner else _size_of(block.content)
            media += sum(part.type in ("image", "document") for part in inner)
    return _asked(size, len(fields.messages), media, fields.max_tokens, body, most_new_tokens)


def _parts(content: msgspec.Raw) -> list[PeekPart]:
    if bytes(content)[:1] != _ARRAY:
        return []
    try:
        return read_json(content, list[PeekPart], max_bytes=_MOST_BYTES)
    except InvalidJson:
        return []


def asked_of_form(body: Body, most_new_tokens: int | None) -> AskedTokens:
    """What a transcription may come to: nobody knows before the sound was read."""
    prompt = min(body.length // _BYTES_PER_TOKEN, _DEFAULT_ANSWER_TOKENS)
    return AskedTokens(prompt, _answer(None, most_new_tokens))


def asked_of_texts(body: Body, most_new_tokens: int | None) -> AskedTokens:
    """What texts to be embedded may come to; there is no answer in tokens."""
    return AskedTokens(max(1, body.length // _BYTES_PER_TOKEN))


def asked_on_generate(body: Body, most_new_tokens: int | None) -> AskedTokens:
    """As `asked_on_v1`, of the older server's body. One that can't be read counts little, and the pod refuses it."""
    try:
        asked = read_json(body.data if isinstance(body, WholeBody) else body.outline, _Generate, max_bytes=_MOST_BYTES)
    except InvalidJson:
        return asked_of_form(body, most_new_tokens)
    size = _size_of(asked.prompt) + len(bytes(asked.system))
    media = sum(_count(each) for each in (asked.image, asked.audio, asked.video))
    return _asked(size, 0, media, asked.max_new_tokens, body, most_new_tokens)


def _asked(
    size: int, messages: int, media: int, new_tokens: Any, body: Body, most_new_tokens: int | None
) -> AskedTokens:
    if not isinstance(body, WholeBody) and not media:
        size = max(size, body.length)  # what was read of it leaves long texts out
    prompt = size // _BYTES_PER_TOKEN + messages * _MESSAGE_TOKENS + media * _MEDIUM_TOKENS
    return AskedTokens(max(prompt, 1), _answer(new_tokens, most_new_tokens))


def _answer(given: Any, most_new_tokens: int | None) -> int:
    if isinstance(given, int) and not isinstance(given, bool) and given >= 0:
        return given if most_new_tokens is None else min(given, most_new_tokens)
    return min(_DEFAULT_ANSWER_TOKENS, most_new_tokens or _DEFAULT_ANSWER_TOKENS)


def _size_of(prompt: msgspec.Raw) -> int:
    """Bytes of a prompt's text; a list of token ids counts as if each were one token's text."""
    data = bytes(prompt)
    if data[:1] == _ARRAY and b'"' not in data:
        return (data.count(b",") + 1) * _BYTES_PER_TOKEN
    return max(0, len(data) - 2)


def _count(medium: msgspec.Raw) -> int:
    """How many media a field holds: none, one, or a list of them."""
    data = bytes(medium)
    if not data or data in (b"null", b'""', b"[]"):
        return 0
    return data.count(b",") + 1 if data[:1] == _ARRAY else 1
