"""Mistral: `[TOOL_CALLS]` and a list of objects, or with newer tokenizers `[TOOL_CALLS]name[ARGS]{...}` for each."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ams_pod.tool_calls.dialect import Functions
from ams_pod.tool_calls.lark import Lark
from ams_pod.tool_calls.pieces import Call
from ams_pod.tool_calls.reading import NotACall, Reading, Waiting
from ams_pod.tool_calls.writing import dumps, parameters_of

_CALLS, _ARGUMENTS, _ID = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"
_SHORT = re.compile(r"[a-zA-Z0-9]{9}").fullmatch


class Mistral:
    """`named`: the newer form, with the name in front of the arguments; either is read."""

    special = True
    short_ids = True

    def __init__(self, name: str, *, named: bool) -> None:
        self.name = name
        self._named = named

    def suits(self, template: str) -> bool:
        return _CALLS in template and (_ARGUMENTS in template) is self._named

    def read(self, reading: Reading, functions: Functions) -> Waiting[None]:
        while not reading.full and (yield from reading.text_until(_CALLS)):
            yield from reading.attempt(self._calls(reading), _CALLS)

    def _calls(self, reading: Reading) -> Waiting[None]:
        yield from reading.literal(_CALLS)
        following = yield from reading.spaces()
        if following == "[":
            reading.take(1)
            while not reading.full and (yield from reading.spaces()) == "{":
                yield from reading.call_object(make_id=_own_id)
                if (yield from reading.spaces()) == ",":
                    reading.take(1)
            if not reading.full:
                yield from reading.literal("]")
            return
        if following == "{":
            yield from reading.call_object(make_id=_own_id)
            return
        name = yield from reading.word(lambda character: character not in "[{\n<")
        call_id = ""
        if (yield from reading.optional(_ID)):
            call_id = (yield from reading.word(str.isalnum)).strip()
        yield from reading.optional(_ARGUMENTS)
        if (yield from reading.spaces()) != "{":
            raise NotACall
        reading.begin(name.strip(), _own_id(call_id))
        yield from reading.json(reading.arguments)
        reading.complete()

    def write(self, calls: Sequence[Call]) -> str:
        if self._named:
            return "".join(f"{_CALLS}{call.name}{_ARGUMENTS}{dumps(call.arguments)}" for call in calls)
        return f"{_CALLS}{dumps([{'name': call.name, 'arguments': call.arguments} for call in calls])}"

    def begins(self, lark: Lark) -> str:
        return "" if self._named else lark.text(f"{_CALLS}[")

    def call(self, lark: Lark, function: Mapping[str, Any]) -> str:
        arguments = lark.json(parameters_of(function))
        if self._named:
            return f"{lark.text(_CALLS + function['name'] + _ARGUMENTS)} {arguments}"
        opening = f'{{"name": {dumps(function["name"])}, "arguments": '
        return f"{lark.text(opening)} {arguments} {lark.text('}')}"

    def between(self, lark: Lark) -> str:
        return "" if self._named else lark.text(", ")

    def ends(self, lark: Lark) -> str:
        return "" if self._named else lark.text("]")

    def opening(self) -> str:
        return _CALLS


def _own_id(told: str) -> str:
    """The id that the model gave, where its template would take it again."""
    return told if _SHORT(told) else ""
