"""What tokens stand for, in bytes: a token may be half a character, which no text can show."""

from collections.abc import Mapping
from typing import Any

import msgspec
from tokenizers import Tokenizer, pre_tokenizers

_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"


class TokenBytes:
    """Of one tokenizer: those whose tokens are bytes, those that write a space as `▁` and some bytes as `<0x0A>`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._added = {number: token.content for number, token in tokenizer.get_added_tokens_decoder().items()}
        kinds = _kinds(tokenizer)
        self._bytes = _byte_letters() if "ByteLevel" in kinds else None
        self._pieces = bool(kinds & {"Metaspace", "ByteFallback", "Replace"})

    def of(self, token: int) -> bytes:
        """The bytes of one token; those of its text for a special one, none for one that there isn't."""
        if (added := self._added.get(token)) is not None:
            return added.encode()
        text = self._tokenizer.id_to_token(token)
        if text is None:
            return b""
        if self._bytes is not None:
            letters = self._bytes
            return bytes(letters[each] for each in text) if all(each in letters for each in text) else text.encode()
        if not self._pieces:
            return self._tokenizer.decode([token], skip_special_tokens=False).encode()
        if len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
            try:
                return bytes([int(text[3:5], 16)])
            except ValueError:
                pass
        return text.replace(_SPACE, " ").encode()


def _kinds(tokenizer: Tokenizer) -> set[str]:
    """The kinds of the decoders that a tokenizer has."""
    if tokenizer.decoder is None:
        return set()
    state: Any = msgspec.json.decode(tokenizer.decoder.__getstate__())
    return {each["type"] for each in state.get("decoders", [state])}


def _byte_letters() -> Mapping[str, int]:
    """The byte that each letter of a vocabulary of bytes stands for: itself, or one that can't be seen."""
    seen = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    unseen = [number for number in range(256) if number not in seen]
    letters = {chr(number): number for number in seen} | {chr(256 + at): byte for at, byte in enumerate(unseen)}
    assert set(letters) == set(pre_tokenizers.ByteLevel.alphabet())
    return letters
