"""Command lines as options and their values."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_NUMBER = re.compile(r"-?[0-9.]+\Z")


@dataclass(frozen=True, slots=True)
class Option:
    """One option. `name` has dashes and no underscores, and is empty for a word that belongs to none.

    `words` are as they were written.
    """

    name: str
    values: tuple[str, ...]
    words: tuple[str, ...]

    @property
    def value(self) -> str:
        """The first value; empty for a flag."""
        return self.values[0] if self.values else ""


def options(words: Sequence[str]) -> Iterator[Option]:
    """`--name=value`, `--name value`, `-n value`, and flags."""
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        if not word.startswith("-") or _NUMBER.match(word) or word == "-":
            yield Option("", (word,), (word,))
            continue
        name, equals, value = word.partition("=")
        if equals and name.startswith("--"):
            yield Option(_plain(name), (value,), (word,))
            continue
        start = position
        while position < len(words) and (not words[position].startswith("-") or _NUMBER.match(words[position])):
            position += 1
        values = tuple(words[start:position])
        yield Option(_plain(word), values, (word, *values))


def _plain(name: str) -> str:
    return name.replace("_", "-")
