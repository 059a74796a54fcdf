"""Tools of models whose chat template knows none: told in a system message, with calls and results as plain text."""

from collections.abc import Mapping, Sequence
from typing import Any

from ams_pod.tool_calls.dialect import Dialect
from ams_pod.tool_calls.pieces import Call
from ams_pod.tool_calls.writing import dumps

_INTRODUCTION = (
    "You may call functions to help with the user's request. These are the functions, as JSON within <tools></tools>:"
    "\n<tools>\n{tools}\n</tools>\n\nTo call a function, answer with its name and arguments in this form, and nothing "
    "else; for several calls, one after the other:\n{example}"
)
_EXAMPLE = Call("name-of-the-function", {"name-of-the-argument": "value"})


def describe(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], dialect: Dialect
) -> list[dict[str, Any]]:
    """The messages with the tools in their system message, their calls as text, and results as messages of the user."""
    told: list[dict[str, Any]] = []
    after_result = False
    for message in messages:
        is_result = message["role"] == "tool"
        if is_result:
            result = f"<tool_response>\n{_text(message['content'])}\n</tool_response>"
            if after_result:  # templates want users and assistants in turns
                told[-1]["content"] += f"\n{result}"
            else:
                told.append({"role": "user", "content": result})
        else:
            told.append(_with_calls_as_text(message, dialect))
        after_result = is_result
    if not tools:
        return told
    introduction = _INTRODUCTION.format(tools="\n".join(map(dumps, tools)), example=dialect.write([_EXAMPLE]))
    if told[0]["role"] != "system":
        return [{"role": "system", "content": introduction}, *told]
    return [{**told[0], "content": f"{_text(told[0]['content'])}\n\n{introduction}"}, *told[1:]]


def _with_calls_as_text(message: Mapping[str, Any], dialect: Dialect) -> dict[str, Any]:
    if not message.get("tool_calls"):
        return dict(message)
    calls = [Call(each["function"]["name"], each["function"]["arguments"]) for each in message["tool_calls"]]
    text = "\n".join(filter(None, [_text(message["content"]), dialect.write(calls)]))
    return {name: message[name] for name in message if name != "tool_calls"} | {"content": text}


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content or () if part["type"] == "text")
