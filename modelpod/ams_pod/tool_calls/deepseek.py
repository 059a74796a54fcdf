"""DeepSeek: V3 and R1 write the kind, the name and a block of JSON, V3.1 the name and the JSON, between own tokens."""

from collections.abc import Mapping, Sequence
from typing import Any

from ams_pod.tool_calls.dialect import Functions
from ams_pod.tool_calls.lark import Lark
from ams_pod.tool_calls.pieces import Call
from ams_pod.tool_calls.reading import NotACall, Reading, Waiting
from ams_pod.tool_calls.writing import dumps, parameters_of

_ALL, _ALL_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
_ONE, _ONE_END = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"
_SEPARATOR = "<｜tool▁sep｜>"


class DeepSeek:
    """`block`: arguments in a block of Markdown, as V3 and R1 write them; either is read."""

    special = True
    short_ids = False

    def __init__(self, name: str, *, block: bool) -> None:
        self.name = name
        self._block = block

    def suits(self, template: str) -> bool:
        return _ALL in template and ("```json" in template) is self._block

    def read(self, reading: Reading, functions: Functions) -> Waiting[None]:
        while not reading.full and (yield from reading.text_until(_ALL, _ONE)):
            yield from reading.attempt(self._calls(reading), _ONE_END)
            yield from reading.spaces()
            yield from reading.optional(_ALL_END)

    def _calls(self, reading: Reading) -> Waiting[None]:
        yield from reading.optional(_ALL)
        yield from reading.spaces()
        while True:
            yield from self._call(reading)
            if reading.full:
                return
            yield from reading.spaces()
            if (yield from reading.optional(_ALL_END)) or not (yield from reading.starts(_ONE)):
                return

    def _call(self, reading: Reading) -> Waiting[None]:
        yield from reading.literal(_ONE)
        name = (yield from reading.until(_SEPARATOR, most=256)).strip()
        block = name == "function"
        if block:
            name = (yield from reading.until("\n", most=256)).strip()
            yield from reading.spaces()
            block = yield from reading.optional("```json")
        if (yield from reading.spaces()) != "{":
            raise NotACall
        reading.begin(name)
        yield from reading.json(reading.arguments)
        reading.complete()
        yield from reading.spaces()
        if block:
            yield from reading.optional("```")
            yield from reading.spaces()
        yield from reading.optional(_ONE_END)

    def write(self, calls: Sequence[Call]) -> str:
        written = ("\n" if self._block else "").join(
            self._opening(call.name) + dumps(call.arguments) + self._closing() for call in calls
        )
        return f"{_ALL}{written}{_ALL_END}"

    def _opening(self, name: str) -> str:
        return f"{_ONE}function{_SEPARATOR}{name}\n```json\n" if self._block else f"{_ONE}{name}{_SEPARATOR}"

    def _closing(self) -> str:
        return f"\n```{_ONE_END}" if self._block else _ONE_END

    def begins(self, lark: Lark) -> str:
        return lark.text(_ALL)

    def call(self, lark: Lark, function: Mapping[str, Any]) -> str:
        arguments = lark.json(parameters_of(function))
        return f"{lark.text(self._opening(function['name']))} {arguments} {lark.text(self._closing())}"

    def between(self, lark: Lark) -> str:
        return lark.text("\n") if self._block else ""

    def ends(self, lark: Lark) -> str:
        return lark.text(_ALL_END)

    def opening(self) -> str:
        return _ALL
