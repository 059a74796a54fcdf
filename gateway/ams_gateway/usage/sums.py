"""What is added up: numbers for each hour, key, model and outcome. Pure.

All are whole numbers, compute time in microseconds, so that sums are exact in whatever order they are made.
"""

import operator
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, TypeAlias

from ams_gateway.usage.port import Outcome

HOUR = 3600
MOST = 2**53 - 1  # the whole numbers that JSON and Lua have


class Group(NamedTuple):
    """What is counted together. `hour` is its start in Unix time."""

    hour: int
    key_id: str
    key_name: str
    model: str
    outcome: str


class Sums(NamedTuple):
    """Numbers of a group. Cached tokens are among those of prompts."""

    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    media: int = 0
    compute_microseconds: int = 0

    def bounded(self) -> "Sums":
        """As SQLite and Redis can keep them, whatever pods told."""
        return Sums(*(min(count, MOST) for count in self))

    def plus(self, other: "Sums") -> "Sums":
        return Sums(*map(operator.add, self, other))

    @property
    def tokens(self) -> int:
        """Of prompts and answers, as budgets count them."""
        return self.prompt_tokens + self.completion_tokens


NOTHING = Sums()
Rows: TypeAlias = Mapping[Group, Sums]
Take: TypeAlias = Callable[[Iterable[tuple[Group, Sums]]], None]


def group_at(hour: int, key_id: str, key_name: str, model: str, outcome: Outcome) -> Group:
    """The group of the hour with this number."""
    return Group(hour * HOUR, _storable(key_id), _storable(key_name), model, outcome.value)


def _storable(text: str) -> str:
    """Without halves of characters, which tokens of identity providers may spell and nothing can store."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def add(rows: dict[Group, Sums], group: Group, sums: Sums) -> None:
    before = rows.get(group)
    rows[group] = sums if before is None else before.plus(sums)


def merged(*parts: Iterable[tuple[Group, Sums]]) -> dict[Group, Sums]:
    rows: dict[Group, Sums] = {}
    for part in parts:
        for group, sums in part:
            add(rows, group, sums)
    return rows


def month_tokens(rows: Iterable[tuple[Group, Sums]], key_ids: Iterable[str], start: int, end: int) -> dict[str, int]:
    """Tokens of these keys from `start` to before `end`, in Unix time; keys without any are left out."""
    wanted = set(key_ids)
    tokens: dict[str, int] = {}
    for group, sums in rows:
        if group.key_id in wanted and start <= group.hour < end:
            tokens[group.key_id] = tokens.get(group.key_id, 0) + sums.tokens
    return tokens
