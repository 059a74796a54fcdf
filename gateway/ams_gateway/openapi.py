"""The OpenAPI document of the gateway, generated from the routes and the types of their bodies."""

import importlib.metadata
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from ams_common.dialects import Dialect, dialect_of
from ams_common.errors import ERRORS

from ams_gateway.routes.routing import Form, Route, Scope
from ams_gateway.routes.table import ANY_ERRORS, KEY_ERRORS

_REF = "#/components/schemas/{name}"
_CODE = {"type": "string", "enum": sorted(ERRORS), "description": "Stable code of the error."}
_REQUEST_ID = {"type": "string", "description": "Id of the request, as in X-Request-Id and the log."}
_ERRORS: dict[str, Any] = {
    "ErrorDetails": {
        "title": "ErrorDetails",
        "description": "What a program needs to know of an error; some codes add fields such as `limit` or `models`.",
        "type": "object",
        "properties": {
            "code": _CODE,
            "request_id": _REQUEST_ID,
            "param": {"type": "string", "description": "The field of the request that is wrong."},
            "retry_after_seconds": {"type": "number", "description": "Seconds after which to try again."},
        },
        "required": ["code", "request_id"],
        "additionalProperties": True,
    },
    "Error": {
        "title": "Error",
        "description": "An error outside of /v1.",
        "type": "object",
        "properties": {
            "error": {"type": "string", "description": "A sentence for a person."},
            "details": {"$ref": _REF.format(name="ErrorDetails"), "description": "For programs."},
        },
        "required": ["error", "details"],
    },
    "OpenAIErrorDetails": {
        "title": "OpenAIErrorDetails",
        "description": "An error in OpenAI's fields.",
        "type": "object",
        "properties": {
            "message": {"type": "string", "description": "A sentence for a person."},
            "type": {
                "type": "string",
                "enum": sorted({kind.openai_type for kind in ERRORS.values()}),
                "description": "OpenAI's kind of error.",
            },
            "param": {"type": ["string", "null"], "description": "The field of the request that is wrong."},
            "code": _CODE,
            "request_id": _REQUEST_ID,
        },
        "required": ["message", "type", "param", "code", "request_id"],
    },
    "OpenAIError": {
        "title": "OpenAIError",
        "description": "An error on /v1, in OpenAI's envelope.",
        "type": "object",
        "properties": {"error": {"$ref": _REF.format(name="OpenAIErrorDetails"), "description": "What went wrong."}},
        "required": ["error"],
    },
    "AnthropicErrorDetails": {
        "title": "AnthropicErrorDetails",
        "description": "An error in Anthropic's fields, and its code.",
        "type": "object",
        "properties": {
            "type": {
                "type": "string",
                "enum": sorted({kind.anthropic_type for kind in ERRORS.values()}),
                "description": "Anthropic's kind of error.",
            },
            "message": {"type": "string", "description": "A sentence for a person."},
            "code": _CODE,
            "param": {"type": "string", "description": "The field of the request that is wrong."},
        },
        "required": ["type", "message", "code"],
    },
    "AnthropicError": {
        "title": "AnthropicError",
        "description": "An error on /v1/messages, in Anthropic's envelope.",
        "type": "object",
        "properties": {
            "type": {"type": "string", "enum": ["error"], "description": "Kind of this body."},
            "error": {"$ref": _REF.format(name="AnthropicErrorDetails"), "description": "What went wrong."},
            "request_id": _REQUEST_ID,
        },
        "required": ["type", "error", "request_id"],
    },
}
_TAGS = {
    "public": "For every client.",
    "admin": "State and clean-up of all pods, in the older server's fields.",
    "monitoring": "For monitoring systems.",
}
_ERROR_BODIES = {
    Dialect.NATIVE: "Error",
    Dialect.OPENAI: "OpenAIError",
    Dialect.RESPONSES: "OpenAIError",
    Dialect.ANTHROPIC: "AnthropicError",
}
_TAG_OF = {Scope.GENERATE: "public"}
_SECURITY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, or a token of an identity provider."},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "An API key."},
}
_SECURITY: list[dict[str, list[str]]] = [{}, {"bearer": []}, {"key": []}]  # {}: a server without keys asks for none


def document(routes: Iterable[Route]) -> dict[str, Any]:
    """The whole document, ready to be encoded as JSON."""
    routes = list(routes)
    components = _components(routes)
    paths: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    for route in routes:
        paths[route.path][route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "AI Model Server",
            "version": importlib.metadata.version("ai-model-server"),
            "description": "Models behind one HTTP API. Errors name a stable code and the request's id.",
        },
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": _SECURITY_SCHEMES},
    }


def _components(routes: Iterable[Route]) -> dict[str, Any]:
    """Schemas by name of all types of bodies and what they refer to; a form's has its files too."""
    types: dict[Any, None] = {}
    for route in routes:
        request = route.request.fields if isinstance(route.request, Form) else route.request
        types |= dict.fromkeys([*filter(_is_struct, (request, route.response)), *route.events])
    _, components = msgspec.json.schema_components(list(types), ref_template=_REF)
    for route in routes:
        if isinstance(route.request, Form):
            schema = components[route.request.fields.__name__]
            schema["properties"] |= {
                name: {"type": "string", "format": "binary", "description": description}
                for name, description in route.request.files.items()
            }
            schema["required"] = [*route.request.files, *schema["required"]]
    return {name: _completed(schema) for name, schema in components.items()} | _ERRORS


def _completed(schema: Any) -> Any:
    """A schema as generators of clients need it: enums have a type, arrays items, constants a description.

    A field that may be left out has no default of null: generators would take the field for one that is always there.
    """
    if isinstance(schema, list):
        return [_completed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    completed = {name: _completed(value) for name, value in schema.items() if (name, value) != ("default", None)}
    if "enum" in schema:
        completed.setdefault("type", "string")
    if len(schema.get("enum", ())) == 1:
        completed.setdefault("description", "Always this value.")
    if schema.get("type") == "array":
        completed.setdefault("items", {})
    return completed


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.operation_id,
        "tags": [_TAG_OF.get(route.scope, route.scope.value)],
        "summary": route.summary,
        "description": route.description,
        "parameters": [
            {"name": name, "in": "path", "required": True, "description": text, "schema": {"type": "string"}}
            for name, text in route.parameters.items()
        ],
    }
    if route.scope.of_keys is not None:
        operation["security"] = _SECURITY
    if route.request is not None:
        media_type = "multipart/form-data" if isinstance(route.request, Form) else "application/json"
        schema = route.request.fields if isinstance(route.request, Form) else route.request
        operation["requestBody"] = {"required": True, "content": {media_type: {"schema": _schema(schema)}}}
    operation["responses"] = {"200": _success(route), **_other_statuses(route), **_errors(route)}
    return operation


def _success(route: Route) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if route.response is not None:
        content["application/json"] = {"schema": _schema(route.response)}
    content |= {media_type: {"schema": {"type": "string"}} for media_type in route.media_types}
    if route.events:
        schemas = [_schema(type_) for type_ in route.events]
        content["text/event-stream"] = {"schema": schemas[0] if len(schemas) == 1 else {"anyOf": schemas}}
    how = "`stream: true`" if route.request is not None else "`Accept: text/event-stream`"
    text = f"The answer; with {how} server-sent events, each of this schema." if route.events else "The answer."
    return {"description": text, "content": content}


def _other_statuses(route: Route) -> dict[str, Any]:
    content = {"application/json": {"schema": _schema(route.response)}}
    return {
        str(status): {"description": description, "content": content}
        for status, description in route.other_statuses.items()
    }


def _errors(route: Route) -> dict[str, Any]:
    """A response for each status, whose description lists the codes."""
    codes_of: defaultdict[int, list[str]] = defaultdict(list)
    for code in (*ANY_ERRORS, *KEY_ERRORS.get(route.scope, ()), *route.errors):
        codes_of[ERRORS[code].status].append(code)
    name = _ERROR_BODIES[dialect_of(route.path)]
    content = {"application/json": {"schema": {"$ref": _REF.format(name=name)}}}
    return {
        str(status): {
            "description": "\n".join(f"- `{code}`: {ERRORS[code].meaning}" for code in sorted(codes)),
            "content": content,
        }
        for status, codes in sorted(codes_of.items())
    }


def _schema(type_: Any) -> Mapping[str, Any]:
    return {"$ref": _REF.format(name=type_.__name__)} if _is_struct(type_) else {"type": "object"}


def _is_struct(type_: Any) -> bool:
    return isinstance(type_, type) and issubclass(type_, msgspec.Struct)
