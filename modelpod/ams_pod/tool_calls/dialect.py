"""What a dialect is: how models of a family write calls of tools."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ams_pod.tool_calls.lark import Lark
from ams_pod.tool_calls.pieces import Call
from ams_pod.tool_calls.reading import Reading, Waiting

Functions = Mapping[str, Mapping[str, Any]]
"""Functions by name, as OpenAI's API describes them."""


class Dialect(Protocol):
    @property
    def name(self) -> str:
        """As `spec.model.toolParser` names it."""

    @property
    def special(self) -> bool:
        """Whether its marks may be special tokens, which detokenizers leave out unless they are told."""

    @property
    def short_ids(self) -> bool:
        """Whether ids of calls are nine letters and digits, as its templates insist; else they are as OpenAI's."""

    def suits(self, template: str) -> bool:
        """Whether a chat template with this text shows calls in this dialect."""

    def read(self, reading: Reading, functions: Functions) -> Waiting[None]:
        """Walk an answer to its end."""

    def write(self, calls: Sequence[Call]) -> str:
        """The calls of one answer, as a model writes them."""

    def begins(self, lark: Lark) -> str:
        """The part of a grammar in front of all calls of an answer; may be empty."""

    def call(self, lark: Lark, function: Mapping[str, Any]) -> str:
        """The part of a grammar for a call of this function."""

    def between(self, lark: Lark) -> str:
        """The part between two calls."""

    def ends(self, lark: Lark) -> str:
        """The part behind all calls."""

    def opening(self) -> str:
        """The text that a call, or all calls, begin with; empty where that is no mark of its own."""
