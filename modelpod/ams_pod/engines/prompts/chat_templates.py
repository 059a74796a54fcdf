"""What a chat template is and how it takes tools and calls: found by rendering a few, when that is first needed."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ams_pod.engines.prompts.control_tokens import Apart, Disguise

_NAME, _KEY = "ams47tool11", "ams47key11"  # no template has them, and none changes them


class Templates:
    """The chat template of a model: some have one of their own for chats with tools."""

    def __init__(self, own: str | Mapping[str, str] | None) -> None:
        self._plain: str | None
        if own is None or isinstance(own, str):
            self._plain, self._tools = own, None
        else:
            self._plain, self._tools = own.get("default") or next(iter(own.values()), None), own.get("tool_use")

    @property
    def text(self) -> str:
        """Of all there are."""
        return "\n".join(filter(None, [self._plain, self._tools]))

    def chosen(self, *, with_tools: bool) -> str | None:
        return self._tools if with_tools and self._tools else self._plain


@dataclass(frozen=True, slots=True)
class Habits:
    """`tools`: the template tells the model of tools, and shows calls of them.

    `texts`: it wants arguments of calls as JSON, not as objects.
    """

    tools: bool = False
    texts: bool = False

    def message(self, message: dict[str, Any]) -> dict[str, Any]:
        """As the template takes it."""
        if not self.texts or not message.get("tool_calls"):
            return message
        calls = [
            {**call, "function": {**call["function"], "arguments": dumps(call["function"]["arguments"])}}
            for call in message["tool_calls"]
        ]
        return {**message, "tool_calls": calls}


def habits_of(render: Callable[..., str]) -> Habits:
    """`render` makes a text of messages and the template's arguments, and raises what it likes."""
    question = {"role": "user", "content": "x"}
    tool = {
        "type": "function",
        "function": {"name": _NAME, "description": "x", "parameters": {"type": "object", "properties": {}}},
    }
    call = {"id": "abcdefghi", "type": "function", "function": {"name": "x", "arguments": {_KEY: _KEY}}}
    result = {"role": "tool", "content": "x", "tool_call_id": "abcdefghi", "name": "x"}

    def shown(habits: Habits) -> bool:
        """Whether a call comes out of the template as JSON, or in a form of its own."""
        message = habits.message({"role": "assistant", "content": "", "tool_calls": [call]})
        try:
            text = render([question, message, result], add_generation_prompt=True)
        except Exception:  # a template raises what it likes, jinja2.TemplateError among others
            return False
        return _KEY in text and f"'{_KEY}': '{_KEY}'" not in text and f'\\"{_KEY}' not in text

    try:
        takes = _NAME in render([question], tools=[tool], add_generation_prompt=True)
    except Exception:
        takes = False
    return next(filter(shown, (Habits(takes), Habits(takes, texts=True))), Habits())


def texts_in(value: Any) -> Iterator[str]:
    """All texts in a value of JSON, names of fields included."""
    match value:
        case str():
            yield value
        case Mapping():
            for name, each in value.items():
                yield name
                yield from texts_in(each)
        case list() | tuple():
            for each in value:
                yield from texts_in(each)


def worn_by(value: Any, disguise: Disguise | Apart) -> Any:
    """The value with all its texts in disguise."""
    match value:
        case str():
            return disguise.put_on(value)
        case Mapping():
            return {disguise.put_on(name): worn_by(each, disguise) for name, each in value.items()}
        case list() | tuple():
            return [worn_by(each, disguise) for each in value]
    return value


def dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
