"""Llama 3: `{"name": ..., "parameters": {...}}` and nothing else, or behind `<|python_tag|>`; several by `;`."""

from collections.abc import Mapping, Sequence
from typing import Any

from ams_pod.tool_calls.dialect import Functions
from ams_pod.tool_calls.lark import Lark
from ams_pod.tool_calls.pieces import Call
from ams_pod.tool_calls.reading import Reading, Waiting
from ams_pod.tool_calls.writing import dumps, parameters_of

_TAG = "<|python_tag|>"


class Llama3:
    name = "llama3"
    special = True
    short_ids = False

    def suits(self, template: str) -> bool:
        return _TAG in template or ("<|start_header_id|>" in template and '"parameters"' in template)

    def read(self, reading: Reading, functions: Functions) -> Waiting[None]:
        if (yield from reading.behind_spaces()) == "{":
            yield from reading.attempt(self._calls(reading))
        while not reading.full and (yield from reading.text_until(_TAG)):
            yield from reading.attempt(self._tagged(reading))

    def _tagged(self, reading: Reading) -> Waiting[None]:
        yield from reading.literal(_TAG)
        yield from self._calls(reading)

    def _calls(self, reading: Reading) -> Waiting[None]:
        """Only of the tools that there are: an answer in JSON may look like a call."""
        while True:
            yield from reading.spaces()
            yield from reading.call_object(known=True)
            if reading.full:
                return
            if (yield from reading.spaces()) == ";":
                reading.take(1)
            if (yield from reading.spaces()) != "{":
                return

    def write(self, calls: Sequence[Call]) -> str:
        return "; ".join(dumps({"name": call.name, "parameters": call.arguments}) for call in calls)

    def begins(self, lark: Lark) -> str:
        return ""

    def call(self, lark: Lark, function: Mapping[str, Any]) -> str:
        opening = f'{{"name": {dumps(function["name"])}, "parameters": '
        return f"{lark.text(opening)} {lark.json(parameters_of(function))} {lark.text('}')}"

    def between(self, lark: Lark) -> str:
        return lark.text("; ")

    def ends(self, lark: Lark) -> str:
        return ""

    def opening(self) -> str:
        return ""
