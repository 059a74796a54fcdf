"""The OpenAPI document of the gateway, generated from the wire types."""

import importlib.metadata
from collections.abc import Mapping
from typing import Any

import msgspec
from ams_common import wire
from ams_common.errors import ERRORS

_TYPES = (
    wire.GenerateRequest,
    wire.GenerateResponse,
    wire.ChatRequest,
    wire.ChatResponse,
    wire.ChatChunk,
    wire.CompletionRequest,
    wire.CompletionResponse,
    wire.TranscriptionRequest,
    wire.TranscriptionResponse,
    wire.TranscriptionDelta,
    wire.TranscriptionDone,
    wire.ModelCard,
    wire.ModelList,
)
_DETAILS = {
    "type": "object",
    "properties": {"code": {"enum": sorted(ERRORS)}, "request_id": {"type": "string"}},
    "required": ["code", "request_id"],
    "additionalProperties": True,
}
_ERROR = {
    "title": "Error",
    "description": "An error outside of /v1: a sentence for a person, and details of which `code` is stable.",
    "type": "object",
    "properties": {"error": {"type": "string"}, "details": _DETAILS},
    "required": ["error", "details"],
}
_OPENAI_ERROR = {
    "title": "OpenAIError",
    "description": "An error on /v1, in OpenAI's envelope.",
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"enum": sorted({kind.openai_type for kind in ERRORS.values()})},
                "param": {"type": ["string", "null"]},
                "code": {"enum": sorted(ERRORS)},
                "request_id": {"type": "string"},
            },
            "required": ["message", "type", "param", "code"],
        }
    },
    "required": ["error"],
}
_REFUSALS = (400, 404, 405, 408, 413, 415, 422, 429, 500, 502, 503, 504)


def document() -> dict[str, Any]:
    """The whole document, ready to be encoded as JSON."""
    _, components = msgspec.json.schema_components(_TYPES, ref_template="#/components/schemas/{name}")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "AI Model Server",
            "version": importlib.metadata.version("ai-model-server"),
            "description": "Models behind one HTTP API. Errors name a stable code and the request's id.",
        },
        "paths": _paths(),
        "components": {"schemas": {**components, "Error": _ERROR, "OpenAIError": _OPENAI_ERROR}},
    }


def _paths() -> dict[str, Any]:
    return {
        "/generate/{model}": {
            "parameters": [_name("model", "name or alias of a model; `_` and `-` are alike")],
            "post": _post(
                "Generate text", "GenerateRequest", "GenerateResponse",
                'events `data: {"response": "<delta>"}`, then `data: [DONE]`; `event: progress` while the model loads, '
                "`event: error` at the end of a failed one",
            ),
        },
        "/v1/chat/completions": {
            "post": _post("OpenAI's chat completions", "ChatRequest", "ChatResponse", "ChatChunk events", openai=True)
        },
        "/v1/completions": {
            "post": _post(
                "OpenAI's completions", "CompletionRequest", "CompletionResponse", "CompletionResponse events",
                openai=True,
            )
        },
        "/v1/audio/transcriptions": {
            "post": _post(
                "OpenAI's transcriptions, by models that take audio", "TranscriptionRequest", "TranscriptionResponse",
                "TranscriptionDelta events, then TranscriptionDone", openai=True, form={"file": "the audio"},
            )
        },
        "/v1/models": {"get": _get("The models there are", "ModelList", openai=True)},
        "/v1/models/{id}": {
            "parameters": [_name("id", "name or alias of a model")],
            "get": _get("One model", "ModelCard", openai=True),
        },
        "/health": {"get": _get("The gateway is alive; counts models")},
        "/ready": {"get": _get("Whether the gateway takes requests; 503 while it stops")},
        "/admin/memory_status": {"get": _get("Memory of all pods, in the older server's fields")},
        "/admin/model_status": {"get": _get("State of all models, in the older server's fields")},
        "/admin/temp_status": {"get": _get("Temporary files of all pods, in the older server's fields")},
        "/admin/emergency_cleanup": {"post": _get("Free what memory no running request needs, on all pods")},
        "/admin/cleanup_temp": {"post": _get("Remove temporary files that are not in use, on all pods")},
        "/metrics": {"get": {"summary": "Prometheus metrics", "responses": {"200": {"description": "text format"}}}},
        "/openapi.json": {"get": _get("This document")},
        "/": {"get": {"summary": "A page for people", "responses": {"200": {"description": "HTML"}}}},
    }  # fmt: skip


def _post(
    summary: str,
    request: str,
    answer: str,
    events: str,
    *,
    openai: bool = False,
    form: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """`form` names the files of a multipart form, whose other fields are those of `request`."""
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": _json(request) if form is None else _form(request, form)},
        "responses": {
            "200": {
                "description": "The answer; with `stream: true` server-sent events",
                "content": {
                    **_json(answer),
                    "text/event-stream": {"schema": {"type": "string", "description": events}},
                },
            },
            **{
                str(status): {
                    "description": ", ".join(code for code, kind in ERRORS.items() if kind.status == status),
                    "content": _json("OpenAIError" if openai else "Error"),
                }
                for status in _REFUSALS
            },
        },
    }


def _get(summary: str, answer: str | None = None, *, openai: bool = False) -> dict[str, Any]:
    content = _json(answer) if answer else {"application/json": {"schema": {"type": "object"}}}
    failure = {"description": "an error", "content": _json("OpenAIError" if openai else "Error")}
    return {"summary": summary, "responses": {"200": {"description": "OK", "content": content}, "default": failure}}


def _form(schema: str, files: Mapping[str, str]) -> dict[str, Any]:
    properties = {
        name: {"type": "string", "contentMediaType": "application/octet-stream", "description": text}
        for name, text in files.items()
    }
    both = [
        {"$ref": f"#/components/schemas/{schema}"},
        {"type": "object", "properties": properties, "required": list(files)},
    ]
    return {"multipart/form-data": {"schema": {"allOf": both}}}


def _json(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def _name(name: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "description": description, "schema": {"type": "string"}}
