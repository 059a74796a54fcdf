"""The text family's CPU side: chat template, tokens, and text again."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
from ams_common.outside import InvalidJson, read_json
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream
from transformers import PreTrainedTokenizerBase

from ams_pod.engines.builtin.prompts.control_tokens import ControlTokens, Disguise
from ams_pod.engines.port import (
    PLAIN_CHAT,
    ChatOptions,
    EngineRefusal,
    LoadFailed,
    Prepared,
    SamplingDefaults,
    context_exceeded,
)
from ams_pod.media.sizing import NO_RULES, Sizes

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
_THINK_TAGS = re.compile(f"{THINK_OPEN}|{THINK_CLOSE}")
_TAIL_TOKENS = 8  # of a prompt, which its continuation is decoded behind


class StreamDetokenizer:
    """Text of one request, token by token; an incomplete character waits.

    `after` are the ids that the text goes on from: some tokenizers write no space in front of a text's first word.
    """

    def __init__(self, tokenizer: Tokenizer, after: Sequence[int] = (), *, special: bool = False) -> None:
        """`special`: special tokens give their text."""
        self._tokenizer = tokenizer
        ids = _decodable(tokenizer, list(after[-_TAIL_TOKENS:]))
        self._stream = DecodeStream(ids=ids, skip_special_tokens=not special)

    def push(self, token: int) -> str:
        return self._stream.step(self._tokenizer, token) or ""


def token_bytes(tokenizer: Tokenizer, token: int) -> bytes:
    """What one token stands for, which may be half a character."""
    return tokenizer.decode([token], skip_special_tokens=False).encode()


def _decodable(tokenizer: Tokenizer, ids: list[int]) -> list[int]:
    """Without tokens at the end that are half a character: nothing of a prompt may become part of the answer."""
    while ids and tokenizer.decode(ids, skip_special_tokens=True).endswith("\N{REPLACEMENT CHARACTER}"):
        ids.pop()
    return ids


class TextPrompts:
    """Turns messages into token ids and tokens into text. Safe to use from several threads."""

    sizes: Sizes = NO_RULES  # of the pictures that the model sees, where it sees any and has rules for them

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        context_tokens: int,
        template: str | None = None,
        marks: Sequence[str] = (),
    ) -> None:
        """`template` is the chat template where it isn't the tokenizer's own, `marks` stand for media in its output."""
        self._tokenizer = tokenizer
        self._template = template or tokenizer.chat_template
        self._context_tokens = context_tokens
        self._fast: Tokenizer = tokenizer.backend_tokenizer
        vocabulary = tokenizer.get_vocab()
        self.vocabulary_size = max(vocabulary.values()) + 1
        self._longest_token = max(map(len, vocabulary))
        self.thinks = THINK_OPEN in vocabulary and THINK_CLOSE in vocabulary
        tags = (THINK_OPEN, THINK_CLOSE) if self.thinks else ()
        self.control = ControlTokens(
            self._fast, str(self._template or ""), (*marks, *tags), unknown=tokenizer.unk_token_id
        )

    def chat(self, messages: Sequence[dict[str, Any]], options: ChatOptions = PLAIN_CHAT) -> Prepared:
        """Messages of {"role", "content"} through the chat template; EngineRefusal if the template refuses them."""
        messages, disguise = self.disguised(
            [{**message, "content": _only_text(message["content"])} for message in messages]
        )
        if self._template is None:
            text = "\n\n".join(message["content"] for message in messages)
            self._check_length(text)
            return Prepared(self.control.encode(text, disguise, special=True))
        text = self.render(messages)
        self._check_length(text)
        ids = self.control.encode(text, disguise)
        return Prepared(ids, thinking=self.thinks and text.rstrip().endswith(THINK_OPEN))

    def disguised(self, messages: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], Disguise]:
        """The messages as the template may see them: what their texts spell is no control token in its output.

        Only the tags around what the model thought in earlier turns stay, as templates look for them.
        """
        disguise = self.control.disguise(text for message in messages for text in _texts(message["content"]))

        def put_on(message: Mapping[str, Any]) -> dict[str, Any]:
            but = _THINK_TAGS if self.thinks and message["role"] == "assistant" else None
            content = message["content"]
            if isinstance(content, str):
                return {**message, "content": disguise.put_on(content, but)}
            parts = [
                {**part, "text": disguise.put_on(part["text"], but)} if part["type"] == "text" else part
                for part in content
            ]
            return {**message, "content": parts}

        return [put_on(message) for message in messages], disguise

    def render(self, messages: Sequence[dict[str, Any]]) -> str:
        """What the chat template makes of the messages, up to where the answer begins."""
        try:
            text: str = self._tokenizer.apply_chat_template(
                list(messages), chat_template=self._template, tokenize=False, add_generation_prompt=True
            )
        except Exception as error:  # a template raises what it likes, jinja2.TemplateError among others
            raise EngineRefusal(
                "invalid-prompt", f"messages: the model's chat template refuses them: {error}.", part="messages"
            ) from None
        return text

    def text(self, text: str) -> Prepared:
        """A raw text with the tokenizer's own special tokens in front; control tokens in it are control tokens."""
        self._check_length(text)
        return Prepared(self._fast.encode(text).ids)

    def ids(self, ids: Sequence[int]) -> Prepared:
        """Token ids as given. EngineRefusal if one is outside the vocabulary."""
        for index, token in enumerate(ids):
            if not 0 <= token < self.vocabulary_size:
                raise EngineRefusal(
                    "invalid-prompt",
                    f"prompt[{index}]: token id {token} is out of range (0 to {self.vocabulary_size - 1}).",
                    part="prompt",
                )
        return Prepared(list(ids))

    def _check_length(self, text: str) -> None:
        """EngineRefusal for a text that has more tokens than the context, however it is divided."""
        least = len(text) // self._longest_token
        if least > self._context_tokens:
            raise context_exceeded(self._context_tokens, least, at_least=True)

    def detokenizer(self, after: Sequence[int] = (), *, special: bool = False) -> StreamDetokenizer:
        return StreamDetokenizer(self._fast, after, special=special)

    def token_bytes(self, token: int) -> bytes:
        """What the token stands for."""
        return token_bytes(self._fast, token)

    def text_of(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens included. EngineRefusal if one is outside the vocabulary."""
        return self._fast.decode(list(self.ids(ids).ids), skip_special_tokens=False)


def _texts(content: str | Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    else:
        yield from (part["text"] for part in content if part["type"] == "text")


def unsupported_modality(kind: str, modalities: Sequence[str]) -> EngineRefusal:
    """The refusal of a part of a kind that the model doesn't take."""
    taken = " and ".join(filter(None, [", ".join(modalities[:-1]), modalities[-1]]))
    return EngineRefusal("unsupported-modality", f"This model takes {taken}, not {kind}.")


def _only_text(content: str | Sequence[dict[str, Any]]) -> str:
    if isinstance(content, str):
        return content
    for part in content:
        if part["type"] != "text":
            raise unsupported_modality(part["type"], ["text"])
    return "\n".join(part["text"] for part in content)


def stop_tokens(folder: Path, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Tokens that end an answer: those of generation_config.json and config.json, and the tokenizer's own."""
    found: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        value = _read_json(folder / name).get("eos_token_id")
        values = value if isinstance(value, list) else [value]
        found.update(each for each in values if isinstance(each, int))
    if isinstance(tokenizer.eos_token_id, int):
        found.add(tokenizer.eos_token_id)
    return frozenset(found)


def sampling_defaults(folder: Path) -> SamplingDefaults:
    """What generation_config.json recommends; nothing where there is none. LoadFailed if it makes no sense."""
    path = folder / "generation_config.json"
    try:
        config = read_json(path.read_bytes(), dict[str, Any])
        names = _SAMPLED if config.get("do_sample") is True else ()
        found = {name: config.get(name) for name in (*names, "repetition_penalty")}
        checked = msgspec.convert(found, _Sampling)
    except FileNotFoundError:
        return SamplingDefaults()
    except OSError as error:
        raise LoadFailed(f"{path} can't be read ({error.strerror})") from None
    except (InvalidJson, msgspec.ValidationError) as error:
        raise LoadFailed(f"{path} can't be used: {error}") from None
    return SamplingDefaults(checked.temperature, checked.top_p, checked.top_k, checked.repetition_penalty)


_SAMPLED = ("temperature", "top_p", "top_k")


class _Sampling(msgspec.Struct):
    temperature: Annotated[float, msgspec.Meta(ge=0, le=100)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, msgspec.Meta(ge=0, le=1 << 40)] | None = None
    repetition_penalty: Annotated[float, msgspec.Meta(gt=0, le=100)] | None = None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path.read_bytes())
    except (OSError, InvalidJson):
        return {}
    return content if isinstance(content, dict) else {}
