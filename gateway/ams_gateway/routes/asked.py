"""How many tokens a request asks for, before a pod has counted them: what limits reserve until its answer tells.

Only for users whose tokens are limited, as the body is read a second time for it.
"""

from dataclasses import dataclass
from typing import Any

import msgspec
from ams_common.outside import InvalidJson, read_json

from ams_gateway.front.body import Body, WholeBody

_BYTES_PER_TOKEN = 4  # of text in JSON, roughly, over languages and tokenizers
_MEDIUM_TOKENS = 500
_MESSAGE_TOKENS = 4
_DEFAULT_ANSWER_TOKENS = 1024  # of a request that names no limit, where the model's own isn't known
_MOST = 1 << 40
_MOST_CHARACTERS = 64 << 20


class _Part(msgspec.Struct, frozen=True):
    type: str = "text"
    text: str | None = None


class _Message(msgspec.Struct, frozen=True):
    content: str | list[_Part] | None = None


class _Asked(msgspec.Struct, frozen=True):
    messages: list[_Message] = []
    prompt: Any = None
    system: str | None = None
    max_tokens: Any = None
    max_completion_tokens: Any = None
    max_new_tokens: Any = None
    image: Any = None
    audio: Any = None
    video: Any = None


@dataclass(frozen=True, slots=True)
class AskedTokens:
    """Of the prompt, roughly, and of the answer at most."""

    prompt: int = 0
    answer: int = 0

    @property
    def total(self) -> int:
        return min(self.prompt + self.answer, _MOST)


NOT_COUNTED = AskedTokens()


def asked_tokens(body: Body, most_new_tokens: int | None) -> AskedTokens:
    """What the request may come to; `most_new_tokens` is the model's own limit, if known.

    Never fails: a body that can't be read is counted by its length, and refused by the pod.
    """
    new = min(_DEFAULT_ANSWER_TOKENS, most_new_tokens or _DEFAULT_ANSWER_TOKENS)
    data = body.data if isinstance(body, WholeBody) else body.outline
    whole = isinstance(body, WholeBody)
    try:
        asked = read_json(data, _Asked, max_bytes=_MOST_CHARACTERS)
    except InvalidJson:  # a form with sound, or nothing that a pod takes
        return AskedTokens(min(body.length // _BYTES_PER_TOKEN, _DEFAULT_ANSWER_TOKENS), new)
    for given in (asked.max_completion_tokens, asked.max_tokens, asked.max_new_tokens):
        if isinstance(given, int) and not isinstance(given, bool) and given >= 0:
            new = min(given, most_new_tokens or given)
            break
    media, characters, messages = 0, 0, len(asked.messages)
    for message in asked.messages:
        if isinstance(message.content, str):
            characters += len(message.content)
        for part in message.content if isinstance(message.content, list) else ():
            if part.text is not None:
                characters += len(part.text)
            if part.type not in ("text", "refusal"):
                media += 1
    characters += len(asked.system or "") + _size_of(asked.prompt)
    media += sum(_count(each) for each in (asked.image, asked.audio, asked.video))
    if not whole and not media:  # its outline leaves long texts out
        characters = max(characters, body.length)
    tokens = characters // _BYTES_PER_TOKEN + messages * _MESSAGE_TOKENS + media * _MEDIUM_TOKENS
    return AskedTokens(max(tokens, 1), new)


def _size_of(prompt: Any) -> int:
    """Characters of a prompt; token ids count as if each were one token's text."""
    if isinstance(prompt, str):
        return len(prompt)
    if isinstance(prompt, list):
        return sum(len(each) if isinstance(each, str) else _BYTES_PER_TOKEN for each in prompt)
    return 0


def _count(medium: Any) -> int:
    return len(medium) if isinstance(medium, list) else int(medium is not None)
