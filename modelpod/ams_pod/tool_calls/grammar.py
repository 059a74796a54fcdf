"""Grammars that an answer is held to where it must call tools, or where the tools are strict."""

from collections.abc import Mapping, Sequence
from typing import Any

from ams_pod.engines.port import Constraint
from ams_pod.tool_calls.dialect import Dialect
from ams_pod.tool_calls.lark import Lark

ANY_OBJECT: Mapping[str, Any] = {"type": "object"}


def required_calls(
    dialect: Dialect, functions: Sequence[Mapping[str, Any]], special: Mapping[str, int], *, several: bool
) -> Constraint:
    """At least one call of one of the functions, and nothing else; `several`: perhaps more than one."""
    lark = Lark(special)
    return Constraint("lark", lark.grammar(_calls(lark, dialect, functions, several=several)))


def strict_calls(
    dialect: Dialect, functions: Sequence[Mapping[str, Any]], special: Mapping[str, int], *, several: bool
) -> Constraint | None:
    """Any text, then perhaps calls: those of strict functions by their schemas, of others with any object.

    None where a call has no mark of its own that tells it from text.
    """
    if not (opening := dialect.opening()):
        return None
    lark = Lark(special)
    loose = [each if each.get("strict") else {**each, "parameters": ANY_OBJECT} for each in functions]
    calls = _calls(lark, dialect, loose, several=several, read=opening)
    text = lark.text_without(opening)
    return Constraint("lark", lark.grammar(f"({lark.text_up_to(opening)} {calls})* {text}"))


def calls_or_json(
    dialect: Dialect,
    functions: Sequence[Mapping[str, Any]],
    special: Mapping[str, int],
    schema: Mapping[str, Any] | bool,
    *,
    several: bool,
) -> Constraint:
    """Calls of the functions, or an answer of this schema."""
    lark = Lark(special)
    calls = lark.rule("calls", _calls(lark, dialect, functions, several=several))
    return Constraint("lark", lark.grammar(f"{calls} | {lark.json(schema)}"))


def _calls(
    lark: Lark, dialect: Dialect, functions: Sequence[Mapping[str, Any]], *, several: bool, read: str = ""
) -> str:
    """`read` is the mark that the first call, or all of them, begin with, where it was read already."""
    front = lark.behind(read) if read else lark
    begins = dialect.begins(front)
    more = ""
    if several:
        call = lark.rule("call", " | ".join(dialect.call(lark, function) for function in functions))
        more = f"({dialect.between(lark)} {call})*"
    first = lark.rule("call", " | ".join(dialect.call(front, function) for function in functions))
    return " ".join(filter(None, [begins, first, more, dialect.ends(lark)]))
