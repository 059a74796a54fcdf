"""Qwen3-Coder: `<tool_call><function=NAME><parameter=KEY>VALUE</parameter></function></tool_call>`.

Values are texts, which the function's schema makes numbers and objects of again.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ams_pod.tool_calls.dialect import Functions
from ams_pod.tool_calls.lark import Lark
from ams_pod.tool_calls.pieces import Call
from ams_pod.tool_calls.reading import NotACall, Reading, Waiting, loads
from ams_pod.tool_calls.writing import dumps, properties_of, required_of, types_of

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_FUNCTION, _FUNCTION_END = "<function=", "</function>"
_PARAMETER, _PARAMETER_END = "<parameter=", "</parameter>"
_TYPES: Mapping[type, str] = {bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}


class Qwen3Coder:
    name = "qwen3-coder"
    special = True
    short_ids = False

    def suits(self, template: str) -> bool:
        return _FUNCTION in template and _PARAMETER in template

    def read(self, reading: Reading, functions: Functions) -> Waiting[None]:
        while not reading.full and (yield from reading.text_until(_OPEN, _FUNCTION)):
            yield from reading.attempt(self._call(reading, functions), _CLOSE)

    def _call(self, reading: Reading, functions: Functions) -> Waiting[None]:
        yield from reading.optional(_OPEN)
        yield from reading.spaces()
        yield from reading.literal(_FUNCTION)
        name = (yield from reading.until(">", most=256)).strip()
        properties = properties_of(functions.get(name, {}))
        reading.begin(name)
        reading.arguments("{")
        first = True
        while True:
            yield from reading.spaces()
            if not (yield from reading.optional(_PARAMETER)):
                break
            key = (yield from reading.until(">", most=256)).strip()
            reading.arguments(f"{'' if first else ', '}{dumps(key)}: ")
            first = False
            yield from self._value(reading, properties.get(key, {}))
        yield from reading.literal(_FUNCTION_END)
        reading.arguments("}")
        reading.complete()
        yield from reading.spaces()
        yield from reading.optional(_CLOSE)

    def _value(self, reading: Reading, schema: Mapping[str, Any]) -> Waiting[None]:
        yield from reading.optional("\n")
        types = types_of(schema)
        if types - {"string"}:
            text = yield from reading.until(_PARAMETER_END)
            reading.arguments(dumps(_typed(text.removesuffix("\n"), types)))
            return
        reading.arguments('"')
        held = ""

        def give(text: str) -> None:
            nonlocal held
            text, held = held + text, ""
            if text.endswith("\n"):
                text, held = text[:-1], "\n"
            reading.arguments(dumps(text)[1:-1])

        yield from reading.until(_PARAMETER_END, give)
        reading.arguments('"')

    def write(self, calls: Sequence[Call]) -> str:
        return "\n".join(
            f"{_OPEN}\n{_FUNCTION}{call.name}>\n"
            + "".join(
                f"{_PARAMETER}{key}>\n{value if isinstance(value, str) else dumps(value)}\n{_PARAMETER_END}\n"
                for key, value in call.arguments.items()
            )
            + f"{_FUNCTION_END}\n{_CLOSE}"
            for call in calls
        )

    def begins(self, lark: Lark) -> str:
        return ""

    def call(self, lark: Lark, function: Mapping[str, Any]) -> str:
        required = required_of(function)
        parts = [lark.text(f"{_OPEN}\n{_FUNCTION}{function['name']}>\n")]
        for key, schema in properties_of(function).items():
            part = f"{lark.text(f'{_PARAMETER}{key}>{chr(10)}')} {self._written(lark, schema)}"
            parts.append(part if key in required else f"({part})?")
        return " ".join([*parts, lark.text(f"{_FUNCTION_END}\n{_CLOSE}")])

    def _written(self, lark: Lark, schema: Mapping[str, Any]) -> str:
        end = f"\n{_PARAMETER_END}\n"
        choices = schema.get("enum", [schema["const"]] if "const" in schema else None)
        if isinstance(choices, list) and choices and all(isinstance(each, str) for each in choices):
            return f"{lark.texts(choices)} {lark.text(end)}"
        if types_of(schema) - {"string"}:
            return f"{lark.json(schema)} {lark.text(end)}"
        return lark.text_up_to(end)

    def between(self, lark: Lark) -> str:
        return lark.text("\n")

    def ends(self, lark: Lark) -> str:
        return ""

    def opening(self) -> str:
        return _OPEN


def _typed(text: str, types: set[str]) -> Any:
    """The value that a text means where these types are allowed; the text itself if it means none."""
    try:
        value = loads(text.strip())
    except NotACall:
        word = {"True": True, "False": False, "None": None}.get(text.strip(), NotACall)
        if word is NotACall:
            return text
        value = word
    if value is None:
        return None if "null" in types else text
    kind = _TYPES.get(type(value), "string")
    if kind in types or (kind == "integer" and "number" in types):
        return value
    return text
