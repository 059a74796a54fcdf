"""Control tokens of a prompt: those that its chat template writes, and none that a message spells out.

A tokenizer takes `<|im_end|>` for the end of a turn wherever it stands, so that whoever may write a message could write
turns of others. The texts of messages are therefore disguised before the template sees them: the characters that
control tokens begin and end with get stand-ins of one character each, so that none can begin or end in a text, nor in
two that the template puts side by side. What is found in the template's output is its own.

Nearly all texts spell no control token and are encoded as they always were. For the others there is a twin of the
tokenizer whose control tokens have names that no text has: it takes these for control tokens, and all else for text.
"""

import itertools
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from tokenizers import AddedToken, Encoding, Tokenizer
from tokenizers.models import Unigram

from ams_pod.engines.port import EngineRefusal

_PRIVATE = range(0xF0000, 0xFFFFE)  # Unicode's private use area A: no text that means something has these
_ANY_PRIVATE = re.compile("[\U000f0000-\U000ffffd]")
_NAMES = range(0x100000, 0x10FFFE)  # and area B
_ANY_NAME = re.compile("[\U00100000-\U0010fffd]")
_SHAPED = re.compile(r"[<\[][|｜].*[|｜][>\]]", re.S)
_SPACE = " \t\r\n▁"
_WORD_JOINER = "\N{WORD JOINER}"


class Disguise:
    """Stand-ins for some characters, of which none is in the texts that they were made for."""

    def __init__(self, characters: Sequence[str], texts: Iterable[str]) -> None:
        used = {found for text in texts for found in _ANY_PRIVATE.findall(text)}
        free = (chr(code) for code in _PRIVATE if chr(code) not in used)
        self._pairs = list(zip(characters, itertools.islice(free, len(characters)), strict=True))

    def put_on(self, text: str, but: "re.Pattern[str] | None" = None) -> str:
        """The text with stand-ins, except in what the pattern `but` finds."""
        if but is not None and (own := but.search(text)) is not None:
            return self.put_on(text[: own.start()]) + own[0] + self.put_on(text[own.end() :], but)
        for character, stand_in in self._pairs:
            text = text.replace(character, stand_in)
        return text

    def take_off(self, text: str) -> str:
        for character, stand_in in self._pairs:
            text = text.replace(stand_in, character)
        return text


class Apart:
    """Takes control tokens apart that a text spells, by an invisible character behind their first.

    For engines that make prompts themselves, and take such a token for one wherever it stands.
    """

    def __init__(self, pattern: "re.Pattern[str] | None") -> None:
        self._pattern = pattern

    def put_on(self, text: str, but: "re.Pattern[str] | None" = None) -> str:
        """The text with its control tokens apart, except in what the pattern `but` finds."""
        if self._pattern is None:
            return text
        return self._pattern.sub(lambda found: found[0] if but and but.fullmatch(found[0]) else _apart(found[0]), text)

    def spell_together(self, one: str, other: str) -> bool:
        """Whether two texts side by side spell a token that neither spells alone."""
        spans = _spans(self._pattern, one + other) if self._pattern is not None else []
        return any(start < len(one) < end for start, end in spans)


def _apart(token: str) -> str:
    return token[0] + _WORD_JOINER + token[1:]


class ControlTokens:
    """The control tokens of one tokenizer, and how texts become token ids without them. Safe in several threads.

    They are its special tokens, and of the others that were added to its vocabulary those that look like control tokens
    or that the chat template writes: `template` is its source, `marks` are further ones. Runs of spaces are none.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: str | None = None,
        marks: Iterable[str] = (),
        *,
        unknown: int | None = None,
    ) -> None:
        """`unknown` is the id of what the vocabulary doesn't have, where the tokenizer's model doesn't tell."""
        self._tokenizer = tokenizer
        added: Mapping[int, AddedToken] = tokenizer.get_added_tokens_decoder()
        known = frozenset(marks)
        found = {
            token.content: (number, token)
            for number, token in added.items()
            if _is_control(token, template or "", known)
        }
        self.ids = {content: number for content, (number, _) in found.items()}
        self.numbers = frozenset(self.ids.values()) - {_unknown(tokenizer, unknown)}  # which odd characters become
        self._always = self._count(tokenizer.encode("").ids)  # what `special` adds
        self._pattern = _any_of(found)
        stripped = [content.strip(_SPACE) for content in found]
        self._edges = sorted({text[0] for text in stripped} | {text[-1] for text in stripped})
        self._building = threading.Lock()
        self._twin: Twin | None = None

    def disguise(self, texts: Iterable[str]) -> Disguise:
        """For the texts of one prompt."""
        return Disguise(self._edges, texts)

    def apart(self) -> Apart:
        return Apart(self._pattern)

    def encode(self, disguised: str, disguise: Disguise, *, special: bool = False) -> list[int]:
        """Token ids: control tokens are those of the text with stand-ins, and with `special` the tokenizer's own.

        EngineRefusal for a tokenizer that can't be told to take them as text.
        """
        ids: list[int] = self.encoding(disguised, disguise, special=special).ids
        return ids

    def encoding(self, disguised: str, disguise: Disguise, *, special: bool = False) -> Encoding:
        """The same as tokenizers has it; its offsets are those of the text with stand-ins."""
        plainly = self._plainly(disguised, disguise, special)
        return plainly if plainly is not None else self.twin().encoding(disguised, disguise, special=special)

    def spelled(self, disguised: str, disguise: Disguise) -> bool:
        """Whether a text spells control tokens where it has stand-ins."""
        return self._plainly(disguised, disguise, False) is None

    def _plainly(self, disguised: str, disguise: Disguise, special: bool) -> Encoding | None:
        """By the tokenizer as it is, None where that takes some text for a control token.

        What a tokenizer looks at is the text as its normalizer leaves it, and a model may have control tokens in its
        own vocabulary: so what came out is counted too.
        """
        plain = disguise.take_off(disguised)
        if self._pattern is None:
            return self._tokenizer.encode(plain, add_special_tokens=special)
        own = list(self._pattern.finditer(disguised))
        if plain != disguised and [found.span() for found in own] != _spans(self._pattern, plain):
            return None
        encoding = self._tokenizer.encode(plain, add_special_tokens=special)
        expected = self._count([self.ids[found[0]] for found in own]) + (self._always if special else 0)
        return encoding if self._count(encoding.ids) == expected or self._has_no_twin else None

    def among(self, ids: Sequence[int]) -> list[int]:
        """The control tokens of ids, in order."""
        return [token for token in ids if token in self.numbers]

    def _count(self, ids: Sequence[int]) -> int:
        numbers = self.numbers
        return sum(1 for token in ids if token in numbers)

    @property
    def _has_no_twin(self) -> bool:
        return self._twin is not None and not self._twin.works

    def twin(self) -> "Twin":
        """EngineRefusal where there is none."""
        with self._building:
            if self._twin is None:
                self._twin = Twin(self._tokenizer, self.ids)
        if not self._twin.works:
            raise EngineRefusal(
                "invalid-prompt",
                f"messages: this model's tokenizer can't take control tokens as text: leave out "
                f"{', '.join(sorted(self.ids)[:20])}.",
                part="messages",
            )
        return self._twin


class Twin:
    """The same tokenizer under other names: what `ids` names is a text like any other to it.

    Made when it is first needed. It shares the vocabulary, unless that holds control tokens itself: then it is a copy,
    which takes a second if the vocabulary is large.
    """

    def __init__(self, tokenizer: Tokenizer, ids: Mapping[str, int]) -> None:
        pattern = _any_of(ids)
        assert pattern is not None
        self._pattern = pattern
        names = map(chr, _NAMES)
        self._names = {content: "".join(itertools.islice(names, len(content))) for content in ids}
        self._tokenizer: Tokenizer | None = None
        for make in (_sharing, _copied):
            try:
                made = make(tokenizer, self._names)
            except Exception:  # tokenizers has no error type of its own
                continue
            if made is not None and all(made.token_to_id(self._names[text]) == number for text, number in ids.items()):
                self._tokenizer = made
                break

    @property
    def works(self) -> bool:
        """Whether each control token kept its id under its new name."""
        return self._tokenizer is not None

    def encoding(self, disguised: str, disguise: Disguise, *, special: bool = False) -> Encoding:
        assert self._tokenizer is not None
        nameless = _ANY_NAME.sub("\N{REPLACEMENT CHARACTER}", disguised)  # nobody else may use the names
        named = self._pattern.sub(lambda found: self._names[found[0]], nameless)
        return self._tokenizer.encode(disguise.take_off(named), add_special_tokens=special)


def _is_control(token: AddedToken, template: str, marks: frozenset[str]) -> bool:
    text = token.content.strip(_SPACE)
    if not text:
        return False
    if token.special or token.content in marks or _SHAPED.fullmatch(text):
        return True
    return not text[0].isalnum() and not text[-1].isalnum() and token.content in template


def _any_of(texts: Iterable[str]) -> "re.Pattern[str] | None":
    """The longest first, as tokenizers look for them."""
    ordered = sorted(texts, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, ordered))) if ordered else None


def _spans(pattern: "re.Pattern[str]", text: str) -> list[tuple[int, int]]:
    return [found.span() for found in pattern.finditer(text)]


def _unknown(tokenizer: Tokenizer, told: int | None) -> int | None:
    """The id of what the vocabulary doesn't have."""
    if isinstance(tokenizer.model, Unigram):  # has one, but doesn't say which
        return told
    text = getattr(tokenizer.model, "unk_token", None)
    return tokenizer.token_to_id(text) if text else None


def _sharing(tokenizer: Tokenizer, names: Mapping[str, str]) -> Tokenizer | None:
    """With the vocabulary of the tokenizer itself; None if that has one of the names in it, or other ids come out."""
    if any(tokenizer.model.token_to_id(text) is not None for text in names):
        return None
    made: Any = Tokenizer(tokenizer.model)
    for part in ("normalizer", "pre_tokenizer", "post_processor"):
        if (own := getattr(tokenizer, part)) is not None:
            setattr(made, part, own)
    added = sorted(tokenizer.get_added_tokens_decoder().items())
    made.add_tokens([_named(token, names) for _, token in added])
    kept = all(made.token_to_id(names.get(token.content, token.content)) == number for number, token in added)
    return made if kept else None


def _named(token: AddedToken, names: Mapping[str, str]) -> AddedToken:
    name = names.get(token.content)
    return AddedToken(
        token.content if name is None else name,
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=token.normalized and name is None,
        special=token.special,
    )


def _copied(tokenizer: Tokenizer, names: Mapping[str, str]) -> Tokenizer:
    return Tokenizer.from_buffer(msgspec.json.encode(_renamed(msgspec.json.decode(tokenizer.to_str()), names)))


def _renamed(tokenizer: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """The content of a tokenizer.json with other names for some added tokens, in its vocabulary too."""
    for token in tokenizer["added_tokens"]:
        if (name := names.get(token["content"])) is not None:
            token |= {"content": name, "normalized": False}
    model = tokenizer["model"]
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(text, text): number for text, number in vocabulary.items()}
    elif isinstance(vocabulary, list):  # Unigram: [text, score]
        model["vocab"] = [[names.get(text, text), score] for text, score in vocabulary]
    if (unknown := model.get("unk_token")) in names:
        model["unk_token"] = names[unknown]
    return tokenizer
