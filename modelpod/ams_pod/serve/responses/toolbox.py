"""The tools of a response's request as functions of a chat, and back. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
from ams_common.errors import ApiError
from ams_common.wire import FunctionDefinition, FunctionName, Tool, ToolChoice, ToolChoiceFunction
from ams_common.wire.responses import CustomFormat, NamespacedTool, ResponsesRequest, ResponseTool, ResponseToolChoice

_INPUT = "input"  # the one argument of a custom tool as a function
_OWN = ("function", "custom")


@dataclass(frozen=True, slots=True)
class ToolAddress:
    """How the client calls a function of the chat."""

    name: str
    namespace: str | None = None
    custom: bool = False


@dataclass(frozen=True, slots=True)
class Toolbox:
    """`functions` are those of the chat, `told` the tools that they stand for; `left_out` says which are none."""

    functions: tuple[Tool, ...] = ()
    told: tuple[ResponseTool, ...] = ()
    choice: ToolChoice | None = None
    left_out: tuple[str, ...] = ()
    addresses: Mapping[str, ToolAddress] = field(default_factory=dict)

    def address(self, function: str) -> ToolAddress:
        """Of a function that the model calls; one that it made up is called as it is."""
        return self.addresses.get(function) or ToolAddress(function)


def function_name(name: str, namespace: str | None) -> str:
    """What a tool is called in the chat."""
    if not namespace:
        return name
    return f"{namespace}{name}" if namespace.endswith("_") else f"{namespace}__{name}"


def custom_arguments(text: str) -> str:
    """The arguments of a function that stands for a custom tool."""
    return msgspec.json.encode({_INPUT: text}).decode()


def custom_input(arguments: str) -> str:
    """The text that a custom tool is called with; arguments that are cut off, or something else, as they are."""
    try:
        value = msgspec.json.decode(arguments, type=dict[str, object])
    except msgspec.DecodeError:
        return arguments
    text = value.get(_INPUT)
    return text if isinstance(text, str) else arguments


def toolbox_of(request: ResponsesRequest) -> Toolbox:
    """ApiError for tools that this server would have to run itself, where there are no others, and for wrong ones.

    Clients like Codex declare what OpenAI's servers run beside those that they run themselves, and work without.
    """
    functions: list[Tool] = []
    told: list[ResponseTool] = []
    addresses: dict[str, ToolAddress] = {}
    hosted: list[tuple[str, str]] = []

    def add(tool: ResponseTool | NamespacedTool, place: str, namespace: str | None) -> None:
        if tool.name is None:
            raise ApiError("invalid_parameter", f"{place}.name: is required.", param=f"{place}.name")
        name = function_name(tool.name, namespace)
        if name in addresses:
            raise ApiError(
                "invalid_parameter", f"{place}.name: there are two tools called {name}.", param=f"{place}.name"
            )
        addresses[name] = ToolAddress(tool.name, namespace, tool.type == "custom")
        functions.append(Tool(function=_function(tool, name)))

    for index, tool in enumerate(request.tools or ()):
        place = f"tools[{index}]"
        if tool.type in _OWN:
            add(tool, place, None)
        elif tool.type == "namespace" and tool.tools is not None:
            for number, inner in enumerate(tool.tools):
                if inner.type in _OWN:
                    add(inner, f"{place}.tools[{number}]", tool.name)
                else:
                    hosted.append((f"{place}.tools[{number}]", inner.type))
        else:
            hosted.append((place, tool.type))
            continue
        told.append(tool)
    if hosted and not functions and request.tool_choice != "none":
        raise _hosted(*hosted[0])
    functions, choice = _chosen(request.tool_choice, functions, addresses)
    return Toolbox(
        functions=tuple(functions),
        told=tuple(told),
        choice=choice,
        left_out=tuple(f"{place} ({kind[:50]})" for place, kind in hosted),
        addresses=addresses,
    )


def _hosted(place: str, kind: str) -> ApiError:
    return ApiError(
        "invalid_parameter",
        f"{place}.type: this server runs no tools itself, {kind[:50]!r} neither; declare tools that the client runs, "
        "of type function or custom.",
        param=f"{place}.type",
    )


def _function(tool: ResponseTool | NamespacedTool, name: str) -> FunctionDefinition:
    if tool.type == "custom":
        schema = {"type": "object", "properties": {_INPUT: {"type": "string"}}, "required": [_INPUT]}
        return FunctionDefinition(name=name, description=_custom_description(tool), parameters=schema)
    return FunctionDefinition(name=name, description=tool.description, parameters=tool.parameters, strict=tool.strict)


def _custom_description(tool: ResponseTool | NamespacedTool) -> str:
    sentences = [tool.description or "", f"`{_INPUT}` is plain text."]
    match tool.format:
        case CustomFormat(type="grammar", syntax=syntax, definition=str(definition)):
            sentences[1] = f"`{_INPUT}` is plain text that follows this grammar ({syntax or 'lark'}):\n{definition}"
    return "\n\n".join(filter(None, sentences))


def _chosen(
    choice: str | ResponseToolChoice | None, functions: list[Tool], addresses: Mapping[str, ToolAddress]
) -> tuple[list[Tool], ToolChoice | None]:
    if not isinstance(choice, ResponseToolChoice):
        return functions, choice  # type: ignore[return-value]  # its three words are those of chat
    if choice.type == "allowed_tools":
        allowed = {name for each in choice.tools or () for name in _called(each.name, addresses)}
        kept = [tool for tool in functions if tool.function.name in allowed]
        if not kept:
            raise ApiError("invalid_parameter", "tool_choice.tools: none of them is in tools.", param="tool_choice")
        return kept, choice.mode or "auto"
    if choice.type not in _OWN:
        raise _hosted("tool_choice", choice.type)
    names = _called(choice.name, addresses)
    if not names:
        raise ApiError(
            "invalid_parameter", f"tool_choice.name: there is no tool {str(choice.name)[:100]!r} in tools.",
            param="tool_choice.name",
        )  # fmt: skip
    return functions, ToolChoiceFunction(function=FunctionName(names[0]))


def _called(name: str | None, addresses: Mapping[str, ToolAddress]) -> Sequence[str]:
    """The functions that a client calls so."""
    return [function for function, address in addresses.items() if name in (function, address.name)]
