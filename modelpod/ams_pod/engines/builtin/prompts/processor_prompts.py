"""Prompts with images by a model's own processor: by its chat template, and all in one call."""

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import PIL.Image
from transformers import BatchEncoding

from ams_pod.engines.builtin.prompts.chat_format import ChatFormat
from ams_pod.engines.builtin.threads import use_one_thread
from ams_pod.engines.port import PLAIN_CHAT, ChatOptions, EngineRefusal, Prepared
from ams_pod.engines.prompts.control_tokens import ControlTokens, Disguise
from ams_pod.engines.prompts.text import TextPrompts, unsupported_modality
from ams_pod.media.items import Image

# What processors raise for an image that they can't divide or resize: too narrow, for one.
_REFUSALS = (ValueError, IndexError, ZeroDivisionError, OverflowError)


class ProcessorPrompts(TextPrompts):
    """`TextPrompts` by a processor, all of a prompt in one call. `Prepared.media` is what it makes beside the ids."""

    def __init__(self, processor: Any, chat_format: ChatFormat, context_tokens: int) -> None:
        super().__init__(processor.tokenizer, context_tokens, processor.chat_template, chat_format.marks)
        self._processor = processor
        self._format = chat_format
        self._mark_ids = _mark_ids(processor, chat_format.marks)
        self._busy = threading.Lock()  # a fast tokenizer can't be used and set up by two threads at a time

    def chat(self, messages: Sequence[dict[str, Any]], options: ChatOptions = PLAIN_CHAT) -> Prepared:
        """Messages through the processor. EngineRefusal if it doesn't take them, or they have no room."""
        use_one_thread()
        images = 0
        for message in messages:
            for part in _parts(message["content"]):
                if part["type"] == "image":
                    images += 1
                elif part["type"] != "text":
                    raise unsupported_modality(part["type"], ["text", "image"])
        conversation = [self._message(message) for message in messages]
        disguised, worn, disguise = self.disguised(conversation, options)
        text = self.render(disguised, worn)
        self._check_length(text)
        if text.count(self._format.placeholder) != images:
            raise EngineRefusal(
                "invalid-prompt",
                "messages: the model's chat template has no place for images in one of these messages; "
                "put them into messages of the user.",
                part="messages",
            )
        if self.control.spelled(text, disguise):
            made = self._process(disguised, worn, disguise)
        else:
            made = self._process(conversation, options)
        return Prepared(
            made.pop("input_ids")[0].tolist(),
            thinking=self.opens_thinking(text, conversation, options),
            media=made,
            media_items=images,
            text_only=self._text_only(messages, options) if images else None,
        )

    def template_text(self, messages: Sequence[dict[str, Any]], **arguments: Any) -> str:
        """What the processor's chat template makes of messages; it raises what it likes."""
        text: str = self._processor.apply_chat_template(
            [self._message(each) if isinstance(each["content"], str) else each for each in messages],
            tokenize=False,
            **arguments,
        )
        return text

    def _behind(self, text: str, options: ChatOptions) -> str:
        """EngineRefusal where the prompt needs something behind what the processor makes of it."""
        if behind := super()._behind(text, options):
            raise EngineRefusal("unsupported", f"This model always thinks: its prompts can't end with {behind!r}.")
        return behind

    def text(self, text: str) -> Prepared:
        """A raw text. EngineRefusal if a part of it stands for an image: there is none."""
        self._check_raw(text)
        return super().text(text)

    def ids(self, ids: Sequence[int]) -> Prepared:
        """Token ids as given. EngineRefusal if one is outside the vocabulary, or stands for an image."""
        for index, token in enumerate(ids):
            if (mark := self._mark_ids.get(token)) is not None:
                raise EngineRefusal(
                    "invalid-prompt",
                    f"prompt[{index}]: token id {token} ({mark}) stands for an image in this model's prompts, and "
                    "there is none; send images as messages.",
                    part="prompt",
                )
        return super().ids(ids)

    def _process(
        self, conversation: Sequence[dict[str, Any]], options: ChatOptions, disguise: Disguise | None = None
    ) -> dict[str, Any]:
        """With a disguise, the texts of the conversation have it on, and the tokenizer takes it off."""
        try:
            with self._busy, self._disguised_tokenizer(disguise):
                made = self._processor.apply_chat_template(
                    self._as_taken(conversation),
                    **self._arguments(options),
                    tokenize=True,
                    return_dict=True,
                    return_tensors="pt",
                )
        except _REFUSALS as error:
            raise EngineRefusal(
                "invalid-prompt", f"messages: the model's processor refuses them: {error}.", part="messages"
            ) from None
        return dict(made)

    @contextlib.contextmanager
    def _disguised_tokenizer(self, disguise: Disguise | None) -> Iterator[None]:
        if disguise is None:
            yield
            return
        own = self._processor.tokenizer
        self._processor.tokenizer = _DisguisedTokenizer(own, self.control, disguise)
        try:
            yield
        finally:
            self._processor.tokenizer = own

    def _message(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """As the template takes it, images as pictures: a URL or a path in their place would be fetched."""
        parts = _parts(message["content"])
        if message["role"] in self._format.plain_roles and all(part["type"] == "text" for part in parts):
            return {**message, "content": "\n".join(part["text"] for part in parts)}
        return {**message, "content": [_picture_part(part) for part in parts]}

    def _check_raw(self, text: str) -> None:
        for mark in self._format.marks:
            if mark in text:
                raise EngineRefusal(
                    "invalid-prompt",
                    f"prompt: {mark} stands for media in this model's prompts and can't be part of a text.",
                    part="prompt",
                )

    def _text_only(self, messages: Sequence[dict[str, Any]], options: ChatOptions) -> Any:
        """Without the images; None if no message of the user has text beside them."""
        kept = [
            {**message, "content": [part for part in _parts(message["content"]) if part["type"] == "text"]}
            for message in messages
        ]
        texts = [part["text"] for message in kept if message["role"] == "user" for part in message["content"]]
        return partial(self.chat, kept, options) if any(text.strip() for text in texts) else None


class _DisguisedTokenizer:
    """Encodes what a processor makes of disguised texts, and is the processor's own tokenizer in all else."""

    def __init__(self, tokenizer: Any, control: ControlTokens, disguise: Disguise) -> None:
        self._tokenizer = tokenizer
        self._control = control
        self._disguise = disguise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __len__(self) -> int:
        return len(self._tokenizer)

    def __call__(self, text: str | Sequence[str], **options: Any) -> BatchEncoding:
        """Of one text, or of a list that holds one."""
        special = bool(options.get("add_special_tokens", True))
        (only,) = [text] if isinstance(text, str) else text
        encoding = self._control.encoding(only, self._disguise, special=special)
        values: dict[str, Any] = {"input_ids": encoding.ids, "attention_mask": encoding.attention_mask}
        tensors = options.get("return_tensors")
        if not isinstance(text, str) or tensors is not None:
            values = {name: [value] for name, value in values.items()}
        return BatchEncoding(values, encoding=encoding, tensor_type=tensors)


def _parts(content: str | Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _picture_part(part: Mapping[str, Any]) -> dict[str, Any]:
    if part["type"] == "text":
        return {"type": "text", "text": part["text"]}
    image: Image = part["image"]
    return {"type": "image", "image": PIL.Image.fromarray(image.pixels)}


def _mark_ids(processor: Any, marks: Sequence[str]) -> dict[int, str]:
    """The token ids that stand for media, in a template's output or in what the processor makes of it."""
    own = getattr(processor, "image_token_ids", None) or []
    ids = [*map(processor.tokenizer.backend_tokenizer.token_to_id, marks), *own]
    return {token: processor.tokenizer.convert_ids_to_tokens(token) for token in ids if isinstance(token, int)}
