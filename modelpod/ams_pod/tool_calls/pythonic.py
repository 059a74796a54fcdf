"""Pythonic, as Llama 3.2 and 4: `[get_weather(city="Paris"), get_time()]`, with Python's or JSON's literals."""

import ast
from collections.abc import Mapping, Sequence
from typing import Any

from ams_pod.tool_calls.dialect import Functions
from ams_pod.tool_calls.lark import Lark
from ams_pod.tool_calls.pieces import Call
from ams_pod.tool_calls.reading import NotACall, Reading, Waiting, loads
from ams_pod.tool_calls.writing import dumps, properties_of, required_of

_START, _END = "<|python_start|>", "<|python_end|>"
_CLOSES = {"(": ")", "[": "]", "{": "}"}
_LONGEST_VALUE = 1 << 16  # characters; what Python parses takes a hundred times as much memory
_DEEPEST = 50
_WORDS = {"true": True, "false": False, "null": None}


class Pythonic:
    name = "pythonic"
    special = True
    short_ids = False

    def suits(self, template: str) -> bool:
        return _START in template or "func_name1(" in template

    def read(self, reading: Reading, functions: Functions) -> Waiting[None]:
        if (yield from reading.behind_spaces()) == "[":
            yield from reading.attempt(self._calls(reading))
        while not reading.full and (yield from reading.text_until(_START)):
            yield from reading.attempt(self._marked(reading), _END)

    def _marked(self, reading: Reading) -> Waiting[None]:
        yield from reading.literal(_START)
        yield from self._calls(reading)
        yield from reading.spaces()
        yield from reading.optional(_END)

    def _calls(self, reading: Reading) -> Waiting[None]:
        """Only of the tools that there are: any list may begin like calls."""
        yield from reading.spaces()
        yield from reading.literal("[")
        while True:
            yield from reading.spaces()
            yield from self._call(reading)
            if reading.full:
                return
            if (yield from reading.spaces()) == ",":
                reading.take(1)
                continue
            yield from reading.literal("]")
            return

    def _call(self, reading: Reading) -> Waiting[None]:
        name = yield from reading.word(lambda character: character.isalnum() or character in "_-.:")
        yield from reading.spaces()
        yield from reading.literal("(")
        reading.begin(name, known=True)
        reading.arguments("{")
        first = True
        while (yield from reading.spaces()) != ")":
            if not first:
                yield from reading.literal(",")
                yield from reading.spaces()
            key = yield from reading.word(lambda character: character.isalnum() or character in "_-.")
            yield from reading.spaces()
            yield from reading.literal("=")
            value = _value((yield from _literal(reading)))
            reading.arguments(f"{'' if first else ', '}{dumps(key)}: {dumps(value)}")
            first = False
        reading.take(1)
        reading.arguments("}")
        reading.complete()

    def write(self, calls: Sequence[Call]) -> str:
        return (
            "["
            + ", ".join(
                f"{call.name}({', '.join(f'{key}={dumps(value)}' for key, value in call.arguments.items())})"
                for call in calls
            )
            + "]"
        )

    def begins(self, lark: Lark) -> str:
        return lark.text("[")

    def call(self, lark: Lark, function: Mapping[str, Any]) -> str:
        """Each argument may stand first, or behind another one."""
        required = required_of(function)
        first = following = '""'
        for key, schema in reversed(properties_of(function).items()):
            pair = f"{lark.text(f'{key}=')} {lark.json(schema)}"
            options = [f"{pair} {following}", f"{lark.text(', ')} {pair} {following}"]
            if key not in required:
                options = [f"{options[0]} | {first}", f"{options[1]} | {following}"]
            first, following = lark.rule("first", options[0]), lark.rule("next", options[1])
        return f"{lark.text(function['name'] + '(')} {first} {lark.text(')')}"

    def between(self, lark: Lark) -> str:
        return lark.text(", ")

    def ends(self, lark: Lark) -> str:
        return lark.text("]")

    def opening(self) -> str:
        return ""


def _literal(reading: Reading) -> Waiting[str]:
    """The text of a value, up to the comma or bracket behind it."""
    text, expected, quote, escaped = "", [], "", False
    while character := (yield from reading.peek()):
        if quote:
            escaped, quote = character == "\\" and not escaped, "" if character == quote and not escaped else quote
        elif character in "\"'":
            quote = character
        elif character in _CLOSES:
            expected.append(_CLOSES[character])
        elif expected and character == expected[-1]:
            expected.pop()
        elif character in ")]}," and not expected:
            return text
        elif character in ")]}":
            raise NotACall
        text += reading.take(1)
        if len(text) > _LONGEST_VALUE or len(expected) > _DEEPEST:
            raise NotACall
    raise NotACall


def _value(text: str) -> Any:
    text = text.strip()
    if text in _WORDS:
        return _WORDS[text]
    try:
        return loads(text)
    except NotACall:
        pass
    try:
        value = ast.literal_eval(text)
        dumps(value).encode()
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise NotACall from None
    return value
