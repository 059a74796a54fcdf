"""Tools that a model may call, and its calls, as OpenAI's chat completions have them."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

ToolName = Annotated[str, Meta(pattern=r"\A[a-zA-Z0-9_.:-]{1,128}\Z", description="Name of the function.")]


class FunctionDefinition(msgspec.Struct, frozen=True, kw_only=True):
    """A function that the model may call."""

    name: ToolName
    description: Annotated[str | None, Meta(description="What it does, for the model.")] = None
    parameters: Annotated[
        dict[str, Any] | None, Meta(description="JSON Schema of its arguments, an object; left out: it takes none.")
    ] = None
    strict: Annotated[
        bool | None,
        Meta(description="`true` holds the arguments of its calls to the schema."),
    ] = None


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """A tool; functions are all that there is."""

    type: Annotated[Literal["function"], Meta(description="Kind of the tool.")] = "function"
    function: Annotated[FunctionDefinition, Meta(description="The function.")]


class FunctionName(msgspec.Struct, frozen=True):
    """A function, by its name."""

    name: ToolName


class ToolChoiceFunction(msgspec.Struct, frozen=True, kw_only=True):
    """The one tool that is to be called."""

    type: Annotated[Literal["function"], Meta(description="Kind of the tool.")] = "function"
    function: Annotated[FunctionName, Meta(description="The function.")]


ToolChoice = Literal["none", "auto", "required"] | ToolChoiceFunction
FunctionChoice = Literal["none", "auto"] | FunctionName


class FunctionCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call of a function."""

    name: Annotated[str, Meta(description="Name of the function.")]
    arguments: Annotated[str, Meta(description="Its arguments, an object in JSON.")] = "{}"


class ToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call of a tool."""

    id: Annotated[str, Meta(description="Id of the call; the message with its result names it.")]
    type: Annotated[Literal["function"], Meta(description="Kind of the tool.")] = "function"
    function: Annotated[FunctionCall, Meta(description="The call.")]


class FunctionCallDelta(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is new of a call of a function."""

    name: Annotated[str | None, Meta(description="In the first piece of a call.")] = None
    arguments: Annotated[str | None, Meta(description="The next piece of its arguments.")] = None


class ToolCallDelta(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is new of a call of a tool."""

    index: Annotated[int, Meta(description="Which of the answer's calls.")]
    id: Annotated[str | None, Meta(description="In the first piece of a call.")] = None
    type: Annotated[Literal["function"] | None, Meta(description="In the first piece of a call.")] = None
    function: Annotated[FunctionCallDelta, Meta(description="What is new.")]
