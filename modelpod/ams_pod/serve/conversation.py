"""A chat put together from the turns of an API that tells them otherwise than chat completions do. Pure."""

import re
from collections.abc import Sequence
from typing import Any

from ams_common.errors import ApiError
from ams_common.wire import (
    AudioPart,
    ContentPart,
    FilePart,
    FunctionCall,
    ImagePart,
    Message,
    TextPart,
    ToolCall,
)
from ams_common.wire.messages import CountTokensRequest, MessagesRequest
from ams_common.wire.responses import ResponsesRequest

_FORM = "response_format"
_SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "seed",
    "stop",
    "min_tokens",
    "stop_token_ids",
    "allowed_token_ids",
    "include_stop_str_in_output",
    "skip_special_tokens",
    "ignore_eos",
    "cache_salt",
)
_PLACE = re.compile(r"messages\[(\d{1,6})\](?:\.[\w.\[\]]*\w\]?)?")


class Conversation:
    """Turns as they come; `messages` are those of chat completions, `places` where in the request each came from.

    What an assistant thinks, says and calls in a row is one message, and system messages at the beginning are one.
    Media that tools gave back follow their results as a user's, as chat templates show them in no other role.
    """

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.places: list[str] = []
        self._thought: list[str] = []
        self._said: list[str] = []
        self._calls: list[ToolCall] = []
        self._place = ""
        self._media: list[ContentPart] = []
        self._names: dict[str, str] = {}

    def system(self, parts: Sequence[ContentPart], place: str) -> None:
        """What the model is to do."""
        self._end_turn()
        if self.messages and all(message.role == "system" for message in self.messages):
            before = self.messages.pop()
            self.places.pop()
            parts = [*_parts(before.content), *parts]
        self._add(Message(role="system", content=_content(parts)), place)

    def user(self, parts: Sequence[ContentPart], place: str) -> None:
        media, self._media = self._media, []
        self._end_turn()
        self._add(Message(role="user", content=_content([*media, *parts])), place)

    def think(self, text: str, place: str) -> None:
        """Of the assistant."""
        self._begin_turn(place)
        self._thought.append(text)

    def say(self, text: str, place: str) -> None:
        """Of the assistant."""
        self._begin_turn(place)
        self._said.append(text)

    def call(self, call_id: str, name: str, arguments: str, place: str) -> None:
        """Of a tool, by the assistant; `arguments` is an object in JSON."""
        self._begin_turn(place)
        self._names[call_id] = name
        self._calls.append(ToolCall(id=call_id, function=FunctionCall(name=name, arguments=arguments)))

    def result(self, call_id: str, parts: Sequence[ContentPart], place: str) -> None:
        """What a tool gave back."""
        self._end_assistant()
        texts = [part for part in parts if isinstance(part, TextPart)]
        media = [part for part in parts if not isinstance(part, TextPart)]
        if media and not texts:
            texts = [TextPart(f"(see the {_word(media[0])} below)")]
        self._media += media
        message = Message(role="tool", content=_content(texts), tool_call_id=call_id, name=self._names.get(call_id))
        self._add(message, place)

    def end(self) -> None:
        """There are no more turns."""
        self._end_turn()

    def _begin_turn(self, place: str) -> None:
        self._end_media()
        if not (self._thought or self._said or self._calls):
            self._place = place

    def _end_turn(self) -> None:
        self._end_assistant()
        self._end_media()

    def _end_assistant(self) -> None:
        if not (self._thought or self._said or self._calls):
            return
        message = Message(
            role="assistant",
            content="\n".join(self._said) if self._said else None,
            reasoning_content="\n".join(self._thought) or None,
            tool_calls=self._calls or None,
        )
        self._thought, self._said, self._calls = [], [], []
        self._add(message, self._place)

    def _end_media(self) -> None:
        if self._media:
            media, self._media = self._media, []
            self._add(Message(role="user", content=media), self.places[-1])

    def _add(self, message: Message, place: str) -> None:
        self.messages.append(message)
        self.places.append(place)


def sampling_fields(request: ResponsesRequest | MessagesRequest | CountTokensRequest) -> dict[str, Any]:
    """How the next token is chosen, which all APIs say in the same fields."""
    fields = {}
    for name in _SAMPLING:
        fields[name] = getattr(request, name)
    return fields


def retold(error: ApiError, places: Sequence[str], form: str) -> ApiError:
    """An error about the chat, in the words of the request that it was made of; `form` is its response_format."""

    def place(match: re.Match[str]) -> str:
        number = int(match[1])
        return places[number] if number < len(places) else match[0]

    error.message = _PLACE.sub(place, error.message).replace(_FORM, form)
    error.param = None if error.param is None else _PLACE.sub(place, error.param).replace(_FORM, form)
    if error.param == "messages" and places and not places[-1].startswith("messages"):
        error.param = places[-1].partition("[")[0]
    return error


def _word(part: ContentPart) -> str:
    match part:
        case ImagePart():
            return "image"
        case FilePart():
            return "document"
        case AudioPart():
            return "audio"
    return "file"


def _content(parts: Sequence[ContentPart]) -> str | list[ContentPart]:
    match parts:
        case [TextPart(text=text)]:
            return text
    return list(parts)


def _parts(content: str | list[ContentPart] | None) -> list[ContentPart]:
    return [TextPart(content)] if isinstance(content, str) else list(content or ())
