"""The text family's CPU side: chat template, tokens, and text again."""

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from ams_common.outside import InvalidJson, read_json
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from ams_pod.engines.port import (
    PLAIN_CHAT,
    ChatOptions,
    EngineRefusal,
    LoadFailed,
    Prepared,
    SamplingDefaults,
    context_exceeded,
)
from ams_pod.engines.prompts.chat_templates import Habits, Templates, habits_of, texts_in, worn_by
from ams_pod.engines.prompts.control_tokens import Apart, ControlTokens, Disguise
from ams_pod.engines.prompts.token_bytes import TokenBytes
from ams_pod.media.sizing import NO_RULES, Sizes

if TYPE_CHECKING:  # importing it takes a second, and not every engine has it in its process
    from transformers import PreTrainedTokenizerBase

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
_THINK_TAGS = re.compile(f"{THINK_OPEN}|{THINK_CLOSE}")
_OWN_FIELDS = ("role", "content")  # of a message, that need no disguise, or one of their own
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
        tokenizer: "PreTrainedTokenizerBase",
        context_tokens: int,
        template: str | None = None,
        marks: Sequence[str] = (),
    ) -> None:
        """`template` is the chat template where it isn't the tokenizer's own, `marks` stand for media in its output."""
        self._tokenizer = tokenizer
        self._templates = Templates(template or tokenizer.chat_template)
        self._context_tokens = context_tokens
        self._fast: Tokenizer = tokenizer.backend_tokenizer
        self.thinks = all(self._fast.token_to_id(tag) is not None for tag in (THINK_OPEN, THINK_CLOSE))
        tags = (THINK_OPEN, THINK_CLOSE) if self.thinks else ()
        self.control = ControlTokens(self._fast, self._templates.text, (*marks, *tags), unknown=tokenizer.unk_token_id)
        self._bytes = TokenBytes(self._fast)

    @functools.cached_property
    def _vocabulary(self) -> tuple[int, int]:
        """One more than the highest id, and the length of the longest token: only some prompts need them."""
        vocabulary = self._fast.get_vocab()
        return max(vocabulary.values()) + 1, max(map(len, vocabulary))

    @property
    def vocabulary_size(self) -> int:
        return self._vocabulary[0]

    @property
    def template(self) -> str:
        """The text of the chat template; empty where there is none."""
        return self._templates.text

    @property
    def added_tokens(self) -> dict[str, int]:
        """Tokens that stand for a text of their own, by it."""
        return {token.content: number for number, token in self._fast.get_added_tokens_decoder().items()}

    @property
    def special_tokens(self) -> frozenset[str]:
        """Those of them that give no text unless they are asked to."""
        return frozenset(token.content for token in self._fast.get_added_tokens_decoder().values() if token.special)

    @functools.cached_property
    def habits(self) -> Habits:
        """How the chat template takes tools and calls."""
        return habits_of(self.template_text)

    def template_text(self, messages: Sequence[dict[str, Any]], **arguments: Any) -> str:
        """What the chat template makes of messages; it raises what it likes."""
        with_tools = bool(arguments.get("tools")) or any(message.get("tool_calls") for message in messages)
        chosen = self._templates.chosen(with_tools=with_tools)
        text: str = self._tokenizer.apply_chat_template(
            list(messages), chat_template=chosen, tokenize=False, **arguments
        )
        return text

    def chat(self, messages: Sequence[dict[str, Any]], options: ChatOptions = PLAIN_CHAT) -> Prepared:
        """Messages of {"role", "content"} through the chat template; EngineRefusal if the template refuses them."""
        messages, options, disguise = self.disguised(
            [{**message, "content": _only_text(message["content"])} for message in messages], options
        )
        if not self.template:
            text = "\n\n".join(message["content"] for message in messages)
            self._check_length(text)
            return Prepared(self.control.encode(text, disguise, special=True))
        text = self.render(messages, options)
        self._check_length(text)
        ids = self.control.encode(text, disguise)
        return Prepared(ids, thinking=self.opens_thinking(text, messages, options))

    def opens_thinking(self, text: str, messages: Sequence[Mapping[str, Any]], options: ChatOptions) -> bool:
        """Whether an answer that goes on from this prompt begins inside of a reasoning block."""
        if not self.thinks:
            return False
        if options.continue_last:
            _, opened, rest = _joined(messages[-1]["content"]).rpartition(THINK_OPEN)
            return bool(opened) and THINK_CLOSE not in rest
        return text.rstrip().endswith(THINK_OPEN)

    def disguised(
        self, messages: Sequence[Mapping[str, Any]], options: ChatOptions = PLAIN_CHAT
    ) -> tuple[list[dict[str, Any]], ChatOptions, Disguise]:
        """Messages and options as the template may see them: what they spell is no control token in its output.

        Only the tags around what the model thought in earlier turns stay, as templates look for them.
        """
        values = [*messages, *options.tools, options.template_arguments]
        disguise = self.control.disguise(text for value in values for text in texts_in(value))
        return *self._dressed(messages, options, disguise), disguise

    def taken_apart(
        self, messages: Sequence[Mapping[str, Any]], options: ChatOptions = PLAIN_CHAT
    ) -> tuple[list[dict[str, Any]], ChatOptions]:
        """Messages and options for an engine that makes the prompt: what they spell is no control token there either.

        Texts side by side become one where they spell a token together.
        """
        apart = self.control.apart()
        joined = [{**message, "content": _texts_together(message["content"], apart)} for message in messages]
        return self._dressed(joined, options, apart)

    def _dressed(
        self, messages: Sequence[Mapping[str, Any]], options: ChatOptions, disguise: Disguise | Apart
    ) -> tuple[list[dict[str, Any]], ChatOptions]:
        def put_on(message: Mapping[str, Any]) -> dict[str, Any]:
            but = _THINK_TAGS if self.thinks and message["role"] == "assistant" else None
            worn = {name: worn_by(value, disguise) for name, value in message.items() if name not in _OWN_FIELDS}
            content = message["content"]
            if isinstance(content, str):
                return {**message, **worn, "content": disguise.put_on(content, but)}
            parts = [
                {**part, "text": disguise.put_on(part["text"], but)} if part["type"] == "text" else part
                for part in content
            ]
            return {**message, **worn, "content": parts}

        if options != PLAIN_CHAT:
            options = replace(
                options,
                tools=tuple(worn_by(options.tools, disguise)),
                template_arguments=worn_by(dict(options.template_arguments), disguise),
            )
        return [put_on(message) for message in messages], options

    def render(self, messages: Sequence[dict[str, Any]], options: ChatOptions = PLAIN_CHAT) -> str:
        """What the chat template makes of the messages, up to where the answer begins."""
        try:
            text = self.template_text(self._as_taken(messages), **self._arguments(options))
        except Exception as error:  # a template raises what it likes, jinja2.TemplateError among others
            raise EngineRefusal(
                "invalid-prompt", f"messages: the model's chat template refuses them: {error}.", part="messages"
            ) from None
        return text + self._behind(text, options)

    def _arguments(self, options: ChatOptions) -> dict[str, Any]:
        """Those of `apply_chat_template`."""
        arguments = dict(options.template_arguments)
        if options.tools:
            arguments["tools"] = list(options.tools)
        if options.continue_last:
            arguments["continue_final_message"] = True
        return {**arguments, "add_generation_prompt": not options.continue_last}

    def _as_taken(self, messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """With calls as the template takes them."""
        if not any(message.get("tool_calls") for message in messages):
            return list(messages)
        return [self.habits.message(message) for message in messages]

    def _behind(self, text: str, options: ChatOptions) -> str:
        """What goes between the template's text and an answer that is not to think."""
        if not (options.no_thinking and self.thinks) or options.continue_last:
            return ""
        if text.rstrip().endswith(THINK_OPEN):
            return ("\n" if text.endswith("\n") else "\n\n") + f"{THINK_CLOSE}\n\n"
        return f"{THINK_OPEN}\n\n{THINK_CLOSE}\n\n"

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
        if len(text) <= self._context_tokens:
            return
        least = len(text) // self._vocabulary[1]
        if least > self._context_tokens:
            raise context_exceeded(self._context_tokens, least, at_least=True)

    def detokenizer(self, after: Sequence[int] = (), *, special: bool = False) -> StreamDetokenizer:
        return StreamDetokenizer(self._fast, after, special=special)

    def token_bytes(self, token: int) -> bytes:
        """What the token stands for, which may be half a character."""
        return self._bytes.of(token)

    def text_of(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens included. EngineRefusal if one is outside the vocabulary."""
        return self._fast.decode(list(TextPrompts.ids(self, ids).ids), skip_special_tokens=False)

    def written(self, ids: Sequence[int]) -> str:
        """A prompt as a text, for whoever makes tokens of it again: its control tokens are those of the ids alone.

        Where the ids spell one in others, it gets an invisible character inside. EngineRefusal as `text_of`.
        """
        text = self.text_of(ids)
        own = self.control.among(ids)
        if self.control.among(self._fast.encode(text, add_special_tokens=False).ids) == own:
            return text
        apart, pieces, run = self.control.apart(), [""], list[int]()
        for token in [*ids, None]:
            if token is not None and token not in self.control.numbers:
                run.append(token)
                continue
            pieces.append(apart.put_on(self._behind_token(pieces[-1], run)))
            pieces.append(self.text_of([token]) if token is not None else "")
            run = []
        return "".join(pieces)

    def _behind_token(self, before: str, run: Sequence[int]) -> str:
        """The text of ids behind a control token: some tokenizers write no space in front of a text's first word."""
        number = self.control.ids.get(before)
        if number is None:
            return self.text_of(run)
        return self.text_of([number, *run]).removeprefix(before)


def _texts_together(content: str | Sequence[Mapping[str, Any]], apart: Apart) -> str | list[Mapping[str, Any]]:
    if isinstance(content, str):
        return content
    parts: list[Mapping[str, Any]] = []
    for part in content:
        before = parts[-1] if parts else None
        texts = before is not None and before["type"] == part["type"] == "text"
        if before is not None and texts and apart.spell_together(before["text"], part["text"]):
            parts[-1] = {**part, "text": before["text"] + part["text"]}
        else:
            parts.append(part)
    return parts


def _joined(content: str | Sequence[Mapping[str, Any]]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part["type"] == "text")


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


def stop_tokens(folder: Path, tokenizer: "PreTrainedTokenizerBase") -> frozenset[int]:
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
