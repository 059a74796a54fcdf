"""From the fields that say what an answer's text must be to the one `Constraint` that they mean. Pure."""

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgspec
from ams_common.errors import ApiError
from ams_common.wire import ChatRequest, CompletionRequest, GenerateRequest
from ams_common.wire.structured import JsonObjectFormat, JsonSchemaFormat

from ams_pod.engines.port import Capabilities, Constraint

_LONGEST_PATTERN = 200
_BLANK = r"[ \t\n\r]"
_BLANK_PATTERN = re.compile(r"(?:\\[nrt]|[ \t\n\r\[\]+*?()|]|\{\d{1,4}(?:,\d{0,4})?\})*")


def constraint_of(
    fields: ChatRequest | CompletionRequest | GenerateRequest,
    capabilities: Capabilities | None = None,
    *,
    raw: bool = False,
) -> Constraint | None:
    """None where any text will do. `raw`: no reasoning block is told apart from the answer.

    ApiError where fields ask for several things at once, or the engine can do none of this.
    """
    asked = list(_asked(fields))
    if len(asked) > 1:
        (first, _), (second, _), *_ = asked
        raise ApiError(
            "invalid_parameter", f"{second}: can't be asked for together with {first}: send one of them.", param=second
        )
    if not asked:
        return None
    [(name, constraint)] = asked
    if capabilities is not None and "constraints" not in capabilities.features:
        raise ApiError("invalid_parameter", f"{name}: this model's answers can't be held to a form.", param=name)
    return replace(constraint, reasoning=not raw, white_space=_white_space(fields, constraint))


def _asked(fields: ChatRequest | CompletionRequest | GenerateRequest) -> Iterator[tuple[str, Constraint]]:
    """(field, what it asks for)."""
    match fields.response_format:
        case JsonObjectFormat():
            yield "response_format", Constraint("json-object")
        case JsonSchemaFormat(json_schema=named):
            any_object = Constraint("json-object")
            yield "response_format", any_object if named.schema is None else _of_schema(named.schema)
    for name, schema in (("guided_json", fields.guided_json), ("json_schema", fields.json_schema)):
        if schema is not None:
            yield name, _of_schema(schema)
    for name, regex in (("guided_regex", fields.guided_regex), ("regex", fields.regex)):
        if regex:
            yield name, Constraint("regex", regex)
    grammars = (("guided_grammar", fields.guided_grammar), ("ebnf", fields.ebnf), ("grammar", fields.grammar))
    for name, grammar in grammars:
        if grammar:
            yield name, Constraint("lark", grammar)
    if fields.guided_choice is not None:
        yield "guided_choice", _of_choice(fields.guided_choice)
    if fields.format == "json":
        yield "format", Constraint("json-object")
    elif isinstance(fields.format, dict | bool):
        yield "format", _of_schema(fields.format)
    if (outputs := fields.structured_outputs) is not None:
        if outputs.json is not None:
            yield "structured_outputs.json", _of_schema(outputs.json)
        if outputs.regex is not None:
            yield "structured_outputs.regex", Constraint("regex", outputs.regex)
        if outputs.choice is not None:
            yield "structured_outputs.choice", _of_choice(outputs.choice)
        if outputs.grammar is not None:
            yield "structured_outputs.grammar", Constraint("lark", outputs.grammar)
        if outputs.json_object:
            yield "structured_outputs.json_object", Constraint("json-object")


def _of_schema(schema: dict[str, Any] | bool | str) -> Constraint:
    return Constraint("json-schema", schema if isinstance(schema, str) else msgspec.json.encode(schema).decode())


def _of_choice(choices: list[str]) -> Constraint:
    return Constraint("choice", msgspec.json.encode(choices).decode())


def _white_space(fields: ChatRequest | CompletionRequest | GenerateRequest, constraint: Constraint) -> str | None:
    """What may stand between the parts of JSON, where that is asked for. ApiError for a pattern without JSON."""
    outputs = fields.structured_outputs
    asked = {
        "guided_whitespace_pattern": fields.guided_whitespace_pattern,
        "structured_outputs.whitespace_pattern": outputs.whitespace_pattern if outputs is not None else None,
    }
    for name, pattern in asked.items():
        if pattern is None:
            continue
        if constraint.kind not in ("json-object", "json-schema"):
            raise ApiError("invalid_parameter", f"{name}: only where the answer is JSON.", param=name)
        pattern = pattern.replace(r"[\s]", _BLANK).replace(r"\s", _BLANK)
        if len(pattern) > _LONGEST_PATTERN or not _BLANK_PATTERN.fullmatch(pattern):
            raise ApiError("invalid_parameter", f"{name}: must match white space of JSON alone.", param=name)
        return pattern
    return "" if outputs is not None and outputs.disable_any_whitespace else None
