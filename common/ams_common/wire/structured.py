"""What an answer's text must be: OpenAI's `response_format`, and the names that other servers' clients know."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from ams_common.wire.fields import SamplingFields

Schema = dict[str, Any] | bool
SchemaOrText = Schema | str
Choices = Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(min_length=1)]


class JsonSchema(msgspec.Struct, frozen=True, kw_only=True):
    """A named JSON Schema."""

    name: Annotated[str | None, Meta(description="Its name; changes nothing.")] = None
    description: Annotated[str | None, Meta(description="What it is for; changes nothing.")] = None
    schema: Annotated[Schema | None, Meta(description="The JSON Schema; left out: any object.")] = None
    strict: Annotated[
        bool | None, Meta(description="Changes nothing: answers always follow the schema, in every part.")
    ] = None


class TextFormat(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    """Any text."""


class JsonObjectFormat(msgspec.Struct, frozen=True, tag_field="type", tag="json_object"):
    """Any JSON object."""


class JsonSchemaFormat(msgspec.Struct, frozen=True, tag_field="type", tag="json_schema"):
    """JSON that follows a schema."""

    json_schema: Annotated[JsonSchema, Meta(description="The schema, with its name.")]


ResponseFormat = TextFormat | JsonObjectFormat | JsonSchemaFormat


class StructuredOutputs(msgspec.Struct, frozen=True, kw_only=True):
    """vLLM's form: one of these."""

    json: Annotated[SchemaOrText | None, Meta(description="A JSON Schema, or the text of one.")] = None
    regex: Annotated[str | None, Meta(description="A regular expression that the whole text matches.")] = None
    choice: Annotated[Choices | None, Meta(description="Texts, of which the answer is one.")] = None
    grammar: Annotated[str | None, Meta(description="A grammar in Lark or GBNF.")] = None
    json_object: Annotated[bool | None, Meta(description="`true` for any JSON object.")] = None
    whitespace_pattern: Annotated[
        str | None, Meta(description="A regular expression of what may stand between the parts of JSON.")
    ] = None
    disable_any_whitespace: Annotated[
        bool | None, Meta(description="`true` for JSON without white space between its parts.")
    ] = None


class StructuredFields(SamplingFields, frozen=True, kw_only=True):
    """What the answer's text must be; at most one of these. A reasoning block in front of it is free."""

    response_format: Annotated[
        ResponseFormat | None,
        Meta(description="`text`, `json_object`, or `json_schema` with a schema that the answer follows."),
    ] = None
    structured_outputs: Annotated[StructuredOutputs | None, Meta(description="vLLM's form of the same.")] = None
    guided_json: Annotated[SchemaOrText | None, Meta(description="vLLM's older form: a JSON Schema.")] = None
    guided_regex: Annotated[str | None, Meta(description="vLLM's older form: a regular expression.")] = None
    guided_choice: Annotated[Choices | None, Meta(description="vLLM's older form: texts, of which one.")] = None
    guided_grammar: Annotated[str | None, Meta(description="vLLM's older form: a grammar in Lark or GBNF.")] = None
    guided_whitespace_pattern: Annotated[
        str | None, Meta(description="With guided_json: what may stand between the parts of JSON.")
    ] = None
    json_schema: Annotated[SchemaOrText | None, Meta(description="llama-server's and SGLang's: a JSON Schema.")] = None
    regex: Annotated[str | None, Meta(description="SGLang's: a regular expression.")] = None
    ebnf: Annotated[str | None, Meta(description="SGLang's: a grammar in GBNF or Lark.")] = None
    grammar: Annotated[str | None, Meta(description="llama-server's: a grammar in GBNF or Lark.")] = None
    format: Annotated[Schema | Literal["json", ""] | None, Meta(description="Ollama's: `json`, or a JSON Schema.")] = (
        None
    )
