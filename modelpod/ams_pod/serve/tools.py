"""The tools of a chat: what the model is told of them, how its calls are read, and what its answer is held to."""

import hashlib
import secrets
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from ams_common.errors import ApiError
from ams_common.wire import ChatRequest, FunctionDefinition, FunctionName, ToolChoiceFunction

from ams_pod.engines.port import Capabilities, Constraint, ModelInfo
from ams_pod.tool_calls import CallParser, Dialect, dialect_of
from ams_pod.tool_calls.described import describe
from ams_pod.tool_calls.grammar import calls_or_json, required_calls, strict_calls

_ALPHANUMERIC = string.ascii_letters + string.digits
_SHORT = 9


@dataclass(frozen=True, slots=True)
class ToolPlan:
    """Of one chat. `native`: the chat template knows tools; else `tools` are told in words of our own.

    `functions` are those that may be called, by name; without any, nothing is a call. `must_call`: one of them is.
    """

    dialect: Dialect
    native: bool
    tools: tuple[dict[str, Any], ...] = ()
    functions: dict[str, dict[str, Any]] = field(default_factory=dict)
    constraint: Constraint | None = None
    special_tokens: Mapping[str, int] = field(default_factory=dict)
    several: bool = True
    eager: bool = False
    must_call: bool = False

    @property
    def special(self) -> bool:
        """Whether special tokens must be seen in the answer."""
        return bool(self.functions) and self.dialect.special

    def parser(self) -> CallParser:
        """For one answer."""
        return CallParser(
            self.dialect,
            self.functions,
            _short_id if self.dialect.short_ids else _call_id,
            eager=self.eager,
            most_calls=None if self.several else 1,
        )

    def messages(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """As the chat template takes them."""
        has_calls = any(each["role"] == "tool" or each.get("tool_calls") for each in messages)
        if not self.native:
            return describe(messages, self.tools, self.dialect) if self.tools or has_calls else messages
        return [_with_short_ids(each) for each in messages] if has_calls and self.dialect.short_ids else messages


def with_tools(plan: ToolPlan, asked: Constraint | None) -> Constraint | None:
    """What an answer must be that may call tools, and is `asked` for in a form where it calls none.

    ApiError for a form that can't be told beside calls.
    """
    if asked is None or not plan.functions or plan.must_call:
        return plan.constraint if asked is None or plan.must_call else asked
    if asked.kind not in ("json-object", "json-schema"):
        raise _wrong("tools", "beside tools an answer can be held to JSON alone.")
    if not plan.dialect.opening():
        raise _wrong("tools", "an answer in JSON can't be told from this model's calls; send response_format alone.")
    schema = {"type": "object"} if asked.kind == "json-object" else _schema(asked.value)
    functions = list(plan.functions.values())
    return calls_or_json(plan.dialect, functions, plan.special_tokens, schema, several=plan.several)


def plan_tools(fields: ChatRequest, info: ModelInfo, capabilities: Capabilities, configured: str) -> ToolPlan:
    """ApiError for tools that make no sense together. `configured` is the manifest's dialect, or `auto`."""
    native = "tools" in capabilities.features
    dialect = dialect_of(info.chat_template, configured, knows_tools=native)
    definitions, where = _definitions(fields)
    choice = _choice(fields)
    if not definitions:
        if choice not in ("none", "auto"):
            raise _wrong("tool_choice", "there are no tools to call.")
        return ToolPlan(dialect, native)
    functions: dict[str, dict[str, Any]] = {}
    for definition in definitions:
        if definition.name in functions:
            raise _wrong(where, f"there are two functions with the name {definition.name!r}.")
        functions[definition.name] = _told(definition)
    if choice == "none":
        return ToolPlan(dialect, native)
    if "single-question" in capabilities.features:
        raise _wrong(where, "this model answers one question, and calls no tools.")
    several = fields.parallel_tool_calls is not False and not fields.functions and choice in ("auto", "required")
    tools = tuple({"type": "function", "function": function} for function in functions.values())
    return ToolPlan(
        dialect, native, tools, functions,
        special_tokens=_unspelled(info),
        must_call=choice != "auto",
        constraint=_constraint(dialect, functions, choice, info, capabilities, several=several),
        several=several,
        eager=bool(fields.stream),
    )  # fmt: skip


def _constraint(
    dialect: Dialect,
    functions: dict[str, dict[str, Any]],
    choice: str,
    info: ModelInfo,
    capabilities: Capabilities,
    *,
    several: bool,
) -> Constraint | None:
    strict = {name for name, function in functions.items() if function.get("strict")}
    if choice == "auto" and not strict:
        return None
    special = _unspelled(info)
    if choice == "auto":
        made = strict_calls(dialect, list(functions.values()), special, several=several)
        return made if "constraints" in capabilities.features else None
    if "constraints" not in capabilities.features:
        raise _wrong("tool_choice", "this model's answers can't be held to calls of tools; use auto.")
    if choice == "required":
        return required_calls(dialect, list(functions.values()), special, several=several)
    if choice not in functions:
        raise _wrong("tool_choice", f"there is no function {choice!r} among the tools.")
    return required_calls(dialect, [functions[choice]], special, several=False)


def _schema(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        raise _wrong("response_format", "the schema is no JSON.") from None


def _unspelled(info: ModelInfo) -> dict[str, int]:
    """Tokens that no text spells for what holds answers to a form: special ones, and those that look like tags."""
    return {
        name: number
        for name, number in info.added_tokens.items()
        if name in info.special_tokens or (name.startswith("<") and name.endswith(">"))
    }


def _definitions(fields: ChatRequest) -> tuple[Sequence[FunctionDefinition], str]:
    if fields.tools and fields.functions:
        raise _wrong("functions", "is the older form of tools; send only one of them.")
    if fields.functions:
        return fields.functions, "functions"
    return [tool.function for tool in fields.tools or ()], "tools"


def _choice(fields: ChatRequest) -> str:
    """`none`, `auto`, `required`, or the name of the function to call."""
    choice = fields.tool_choice if fields.tool_choice is not None else fields.function_call
    match choice:
        case None:
            return "auto"
        case ToolChoiceFunction():
            return choice.function.name
        case FunctionName():
            return choice.name
    return choice


def _told(definition: FunctionDefinition) -> dict[str, Any]:
    """As it was sent."""
    return {name: value for name, value in msgspec.structs.asdict(definition).items() if value is not None}


def _call_id() -> str:
    """As OpenAI's."""
    return f"call_{secrets.token_hex(12)}"


def _short_id() -> str:
    return "".join(secrets.choice(_ALPHANUMERIC) for _ in range(_SHORT))


def _with_short_ids(message: dict[str, Any]) -> dict[str, Any]:
    """Ids of other servers as the template takes them; the same one always becomes the same."""
    if "tool_call_id" in message:
        message = {**message, "tool_call_id": _shortened(message["tool_call_id"])}
    if calls := message.get("tool_calls"):
        message = {**message, "tool_calls": [{**call, "id": _shortened(call["id"])} for call in calls]}
    return message


def _shortened(call_id: str) -> str:
    if len(call_id) == _SHORT and call_id.isascii() and call_id.isalnum():
        return call_id
    return hashlib.sha256(call_id.encode()).hexdigest()[:_SHORT]


def _wrong(field: str, sentence: str) -> ApiError:
    return ApiError("invalid_parameter", f"{field}: {sentence}", param=field)
