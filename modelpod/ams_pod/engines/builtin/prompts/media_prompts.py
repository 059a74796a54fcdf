"""Prompts with media: the chat template's text, with each placeholder replaced by as many tokens as its medium has."""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from ams_pod.engines.builtin.prompts.contents import content_of, number_of
from ams_pod.engines.builtin.prompts.pieces import Piece
from ams_pod.engines.builtin.threads import use_one_thread
from ams_pod.engines.port import PLAIN_CHAT, ChatOptions, EngineRefusal, Prepared, context_exceeded
from ams_pod.engines.prompts.text import TextPrompts, unsupported_modality
from ams_pod.media.sizing import Sizes


@dataclass(frozen=True, slots=True, eq=False)
class Expansion:
    """One medium of a prompt: its tokens, what the towers take of it, and what its rope positions depend on."""

    ids: Sequence[int]
    pieces: Sequence[Piece]
    layout: Any = None


@dataclass(frozen=True, slots=True, eq=False)
class MediaInputs:
    """All media of a prompt in their order: `Prepared.media`. The ids of medium i are `starts[i]` to `ends[i]`."""

    pieces: Sequence[Piece]
    layouts: Sequence[Any]
    starts: Sequence[int]
    ends: Sequence[int]


class Expander(Protocol):
    """A family's processor, one medium at a time. Safe to use from several threads; never touches the model."""

    placeholders: Mapping[str, str]  # kind of part to the text that stands for it in the template's output
    sizes: Sizes  # how large pictures are that the model sees

    def count(self, item: Any) -> int:
        """How many tokens the medium will take; costs nothing."""

    def process(self, item: Any) -> Mapping[str, Tensor]:
        """What the processor makes of the medium by itself: its tokens, and inputs of the model's own forward."""

    def expand(self, item: Any) -> Expansion: ...


class MediaPrompts(TextPrompts):
    """`TextPrompts` for messages whose contents may be lists of parts."""

    def __init__(self, tokenizer: Any, template: str | None, context_tokens: int, expander: Expander) -> None:
        super().__init__(tokenizer, context_tokens, template, tuple(expander.placeholders.values()))
        self.expander = expander
        self.sizes = expander.sizes
        self._kinds = {text: kind for kind, text in expander.placeholders.items()}
        self._pattern = re.compile("(" + "|".join(map(re.escape, self._kinds)) + ")")

    def chat(self, messages: Sequence[dict[str, Any]], options: ChatOptions = PLAIN_CHAT) -> Prepared:
        """Messages through the chat template. EngineRefusal if the model doesn't take them, or they are too long."""
        use_one_thread()
        asked = options
        found = [
            (part["type"], part[part["type"]])
            for message in messages
            if not isinstance(message["content"], str)
            for part in message["content"]
            if part["type"] != "text"
        ]
        for kind, _ in found:
            if kind not in self.expander.placeholders:
                raise unsupported_modality(kind, ["text", *self.expander.placeholders])
        bare, options, disguise = self.disguised([_bare(message) for message in messages], options)
        rendered = self.render(bare, options)
        self._check_length(rendered)
        texts = self._pattern.split(rendered)
        self._check_places([self._kinds[text] for text in texts[1::2]], [kind for kind, _ in found])
        items = [item for _, item in found]
        encoded = [self.control.encode(text, disguise) for text in texts[::2]]
        self._check_context(sum(map(len, encoded)), sum(map(self.expander.count, items)))
        ids = list(encoded[0])
        starts, ends, expansions = [], [], []
        for item, after in zip(items, encoded[1:], strict=True):
            expansion = self.expander.expand(item)
            starts.append(len(ids))
            ends.append(len(ids) + len(expansion.ids))
            ids += [*expansion.ids, *after]
            expansions.append(expansion)
        thinking = self.opens_thinking(rendered, bare, options)
        if not expansions:
            return Prepared(ids, thinking=thinking)
        pieces = [piece for expansion in expansions for piece in expansion.pieces]
        numbers = [number_of(each.ids, [piece.inputs for piece in each.pieces], each.layout) for each in expansions]
        return Prepared(
            ids,
            thinking=thinking,
            media=MediaInputs(pieces, [expansion.layout for expansion in expansions], starts, ends),
            media_items=len(items),
            text_only=self._text_only(messages, asked),
            content=content_of(ids, zip(starts, ends, numbers, strict=True)),
        )

    def _text_only(self, messages: Sequence[dict[str, Any]], options: ChatOptions) -> Callable[[], Prepared] | None:
        """Without the media; None if no user message has text beside them."""
        texts = [{**message, "content": _text(message["content"])} for message in messages]
        if not any(text["content"].strip() for text in texts if text["role"] == "user"):
            return None
        return functools.partial(TextPrompts.chat, self, texts, options)

    def _check_places(self, found: Sequence[str], expected: Sequence[str]) -> None:
        """The template must have kept all media."""
        if list(found) == list(expected):
            return
        raise EngineRefusal(
            "invalid-prompt",
            "messages: the model's chat template has no place for media in one of these messages; "
            "put them into messages of the user.",
            part="messages",
        )

    def _check_context(self, text_tokens: int, media_tokens: int) -> None:
        tokens = text_tokens + media_tokens
        if tokens > self._context_tokens:
            raise context_exceeded(self._context_tokens, tokens, media=media_tokens)


def _text(content: str | Sequence[dict[str, Any]]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part["type"] == "text")


def _bare(message: Mapping[str, Any]) -> dict[str, Any]:
    """The message with its media reduced to their kind, as templates want it."""
    content = message["content"]
    if isinstance(content, str):
        return dict(message)
    parts = [part if part["type"] == "text" else {"type": part["type"]} for part in content]
    return {**message, "content": parts}
