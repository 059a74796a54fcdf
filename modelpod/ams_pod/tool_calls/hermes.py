"""Hermes and Qwen: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, one after the other."""

from collections.abc import Mapping, Sequence
from typing import Any

from ams_pod.tool_calls.dialect import Functions
from ams_pod.tool_calls.lark import Lark
from ams_pod.tool_calls.pieces import Call
from ams_pod.tool_calls.reading import Reading, Waiting
from ams_pod.tool_calls.writing import dumps, parameters_of

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"


class Hermes:
    name = "hermes"
    special = True
    short_ids = False

    def suits(self, template: str) -> bool:
        return _OPEN in template

    def read(self, reading: Reading, functions: Functions) -> Waiting[None]:
        while not reading.full and (yield from reading.text_until(_OPEN)):
            yield from reading.attempt(self._call(reading), _CLOSE)

    def _call(self, reading: Reading) -> Waiting[None]:
        yield from reading.literal(_OPEN)
        yield from reading.spaces()
        yield from reading.call_object()
        yield from reading.spaces()
        yield from reading.optional(_CLOSE)

    def write(self, calls: Sequence[Call]) -> str:
        return "\n".join(
            f"{_OPEN}\n{dumps({'name': call.name, 'arguments': call.arguments})}\n{_CLOSE}" for call in calls
        )

    def begins(self, lark: Lark) -> str:
        return ""

    def call(self, lark: Lark, function: Mapping[str, Any]) -> str:
        opening = f'{_OPEN}\n{{"name": {dumps(function["name"])}, "arguments": '
        return f"{lark.text(opening)} {lark.json(parameters_of(function))} {lark.text('}' + chr(10) + _CLOSE)}"

    def between(self, lark: Lark) -> str:
        return lark.text("\n")

    def ends(self, lark: Lark) -> str:
        return ""

    def opening(self) -> str:
        return _OPEN
