"""Grammars in llguidance's Lark, put together from parts."""

import json
import re
from collections.abc import Mapping
from typing import Any

from ams_pod.tool_calls.writing import dumps


class Lark:
    """Rules as they are needed. `special` are the ids of tokens that no text spells, such as `<tool_call>`."""

    def __init__(self, special: Mapping[str, int]) -> None:
        self._special = special
        self._tokens = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))) or r"(?!)")
        self._rules: dict[str, str] = {}  # names by what they mean
        self._read = ""

    def behind(self, mark: str) -> "Lark":
        """The same grammar, for parts whose first mark was read already: texts that begin with it go on behind it."""
        same = Lark(self._special)
        same._rules, same._read = self._rules, mark
        return same

    def text(self, text: str) -> str:
        """Exactly this text; the special tokens in it are themselves."""
        text = text.removeprefix(self._read)
        parts, at = [], 0
        for found in self._tokens.finditer(text):
            parts += [_quoted(text[at : found.start()]), self._token(found[0])]
            at = found.end()
        return " ".join(filter(None, [*parts, _quoted(text[at:])])) or '""'

    def _token(self, name: str) -> str:
        """The token, or where it looks like a tag its text: models spell those too."""
        token = f"<[{self._special[name]}]>"
        return f"({token} | {_quoted(name)})" if name.startswith("<") else token

    def json(self, schema: Mapping[str, Any] | bool) -> str:
        """A JSON value of this schema."""
        return self.rule("json", f"%json {json.dumps(schema)}")

    def text_up_to(self, mark: str) -> str:
        """Any text that doesn't hold `mark`, and the mark."""
        spelled = self.rule("up_to", f"/(.|\\n)*/ {_quoted(mark)}", "[lazy]")
        if not self._tokens.match(mark):
            return spelled
        return f"({self.text_without(mark)} {self.text(mark)} | {spelled})"

    def text_without(self, mark: str) -> str:
        """Any text that doesn't spell `mark`."""
        return self.rule("TEXT", f"/(.|\\n)*/ & ~/(.|\\n)*{_literal(mark)}(.|\\n)*/")

    def texts(self, choices: list[str]) -> str:
        """One of these texts."""
        return "(" + " | ".join(map(self.text, choices)) + ")"

    def rule(self, name: str, body: str, attributes: str = "") -> str:
        """The name of a rule of its own."""
        meaning = f"{attributes}: {body}"
        return self._rules.setdefault(meaning, f"{name}_{len(self._rules)}")

    def grammar(self, start: str) -> str:
        return "\n".join([f"start: {start}", *(name + meaning for meaning, name in self._rules.items())]) + "\n"


def _quoted(text: str) -> str:
    return dumps(text) if text else ""


def _literal(text: str) -> str:
    """As part of a regular expression."""
    return "".join(each if each.isalnum() else f"\\x{{{ord(each):x}}}" for each in text)
