"""A model's tokens as llguidance sees them."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from llguidance import LLTokenizer, TokenizerWrapper
from tokenizers import Tokenizer

from ams_pod.engines.port import EngineRefusal

_OPEN, _CLOSE = b"<think>", b"</think>"
_BLANKS = b" \t\n\r"
_META_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"

Bits = np.ndarray[tuple[int], np.dtype[np.uint8]]
"""One for each token, the first in the lowest place of the first byte."""


@dataclass(frozen=True, slots=True, eq=False)
class Vocabulary:
    """`size` counts the model's and the tokenizer's tokens: either may have some that the other doesn't know.

    `ends` are the tokens that end an answer.

    Of a model that reasons, `opening` and `closing` are the tokens around the block, else None. `free` are all tokens
    that are a text or something special and end nothing. `blank` are those of white space alone. `completing[n]` have
    a text that completes the block's end of which n bytes are there.
    """

    tokenizer: LLTokenizer
    size: int
    ends: frozenset[int]
    opening: int | None
    closing: int | None
    free: Bits
    blank: Bits
    completing: tuple[Bits, ...]
    texts: tuple[bytes, ...]

    def is_blank(self, token: int) -> bool:
        return bool(self.blank[token // 8] >> token % 8 & 1)

    @property
    def bytes(self) -> int:
        """Of a mask: whole words of 32 bits."""
        return len(self.free)


def read_vocabulary(tokenizer: Tokenizer, size: int, ends: Collection[int], *, thinks: bool) -> Vocabulary:
    """Takes half a second. EngineRefusal for a tokenizer whose texts llguidance can't tell."""
    own = Tokenizer.from_str(tokenizer.to_str())
    own.no_padding()
    own.no_truncation()
    known = max(own.get_vocab().values(), default=0) + 1
    size = max(size, known)
    stopping = sorted(token for token in ends if token < known)
    made = _made(own, known, size, stopping)
    texts = tuple(made.decode_bytes([token]) if token < known else b"" for token in range(size))
    special = {token for token in range(known) if made.is_special_token(token)}
    opening, closing = (own.token_to_id(tag.decode()) if thinks else None for tag in (_OPEN, _CLOSE))
    free = [token for token in range(known) if (texts[token] or token in special) and token not in ends]
    blank = [token for token in free if token not in special and texts[token] and not texts[token].strip(_BLANKS)]
    completing = [
        [token for token in free if token != closing and _completes(texts[token], there)]
        for there in range(len(_CLOSE))
    ]
    return Vocabulary(
        tokenizer=made,
        size=size,
        ends=frozenset(ends),
        opening=opening,
        closing=closing,
        free=_bits(free, size),
        blank=_bits(blank, size),
        completing=tuple(_bits(tokens, size) for tokens in completing),
        texts=texts,
    )


def there_of_close(text: bytes) -> int:
    """How many bytes of the block's end the text ends with."""
    return next((there for there in range(len(_CLOSE) - 1, 0, -1) if text.endswith(_CLOSE[:there])), 0)


def _completes(text: bytes, there: int) -> bool:
    return _CLOSE in text if there == 0 else text.startswith(_CLOSE[there:]) or _CLOSE in text


def _made(tokenizer: Tokenizer, known: int, size: int, ends: list[int]) -> LLTokenizer:
    try:
        return LLTokenizer(tokenizer.to_str(), n_vocab=size, eos_token=ends or None)
    except Exception:  # it knows tokenizers of bytes alone, which nearly all are
        pass
    try:
        return LLTokenizer(TokenizerWrapper(_ByTexts(tokenizer, known, ends)), n_vocab=size, eos_token=ends or None)
    except Exception as error:
        raise EngineRefusal(
            "unsupported", f"This model's answers can't be held to a form: of its tokenizer, {str(error)[:200]}."
        ) from None


class _ByTexts:
    """A tokenizer as llguidance asks for one, whose tokens are what they spell."""

    def __init__(self, tokenizer: Tokenizer, known: int, ends: list[int]) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        self.special_token_ids = sorted({*ends, *(token for token, each in added.items() if each.special)})
        self.eos_token_id = ends[0] if ends else known - 1
        self.bos_token_id = None
        self.tokens = [self._text(token).encode() for token in range(known)]

    def __call__(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def _text(self, token: int) -> str:
        name = self._tokenizer.id_to_token(token) or ""
        if _META_SPACE in name:
            return name.replace(_META_SPACE, " ")
        return str(self._tokenizer.decode([token], skip_special_tokens=False))


def _bits(tokens: list[int], size: int) -> Bits:
    flags = np.zeros(-(-size // 32) * 32, np.uint8)
    flags[tokens] = 1
    return np.packbits(flags, bitorder="little")
