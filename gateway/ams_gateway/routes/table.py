"""Every route of the gateway, once: routing, the OpenAPI document and the check of docs/http.md come from here."""

from typing import Any

from ams_common import admin as bodies
from ams_common import wire
from ams_common.demand import DemandReport
from ams_common.why.story import Why

from ams_gateway.routes import (
    admin,
    controls,
    generate,
    models,
    monitoring,
    openai,
    overview,
    page,
    service,
    usage,
    why,
)
from ams_gateway.routes.routing import Form, Route, Scope

# What any request may get, whatever its route.
ANY_ERRORS = (
    "bad_request",
    "host_not_allowed",
    "origin_not_allowed",
    "overloaded",
    "headers_too_large",
    "internal_error",
)

# What a route of a scope may get where keys are configured.
KEY_ERRORS = {
    Scope.GENERATE: ("missing_key", "invalid_key", "scope_required", "model_not_allowed"),
    Scope.ADMIN: ("missing_key", "invalid_key", "admin_required"),
    Scope.MONITORING: ("missing_key", "invalid_key", "scope_required"),
}

_BODY = ("request_timeout", "body_too_large", "unsupported_media_type", "invalid_parameter")
_JSON_BODY = (*_BODY, "invalid_json")
_POD = (
    "model_not_found",
    "rate_limited",
    "token_limit",
    "queue_full",
    "model_loading",
    "model_failed",
    "suspended",
    "no_backend",
    "backend_failed",
    "draining",
    "timeout",
)
_PROMPT = ("missing_prompt", "context_length_exceeded", "generation_failed", "insufficient_memory")
_MEDIA = (
    "invalid_base64",
    "undecodable_image",
    "undecodable_audio",
    "undecodable_video",
    "media_too_large",
    "unsupported_modality",
)

ROUTES: tuple[Route, ...] = (
    Route(
        method="POST",
        path="/generate/{model}",
        handler=generate.generate_text,
        operation_id="generate_text",
        scope=Scope.GENERATE,
        summary="Generate text",
        description="The older server's API. A stream ends with `data: [DONE]`; while the model starts it has "
        "`event: progress`, and an error after its first event is `event: error` with the body of an error.",
        parameters={"model": "Name or alias of a model; `_` and `-` are alike."},
        request=wire.GenerateRequest,
        response=wire.GenerateResponse,
        events=(wire.GenerateResponse, wire.ProgressEvent),
        errors=(*_JSON_BODY, *_POD, *_PROMPT, *_MEDIA),
    ),
    Route(
        method="POST",
        path="/v1/chat/completions",
        handler=openai.create_completion,
        operation_id="create_chat_completion",
        scope=Scope.GENERATE,
        summary="Continue a chat",
        description="OpenAI's API. A stream ends with `data: [DONE]`; while the model starts it has comments, and an "
        "error after its first event is an event with `error`.",
        request=wire.ChatRequest,
        response=wire.ChatResponse,
        events=(wire.ChatChunk,),
        errors=(*_JSON_BODY, *_POD, *_PROMPT, *_MEDIA),
    ),
    Route(
        method="POST",
        path="/v1/completions",
        handler=openai.create_completion,
        operation_id="create_completion",
        scope=Scope.GENERATE,
        summary="Continue a text",
        description="OpenAI's API, without a chat template. Streams are those of chat completions.",
        request=wire.CompletionRequest,
        response=wire.CompletionResponse,
        events=(wire.CompletionResponse,),
        errors=(*_JSON_BODY, *_POD, *_PROMPT),
    ),
    Route(
        method="POST",
        path="/tokenize",
        handler=openai.tokenize,
        operation_id="tokenize",
        scope=Scope.GENERATE,
        summary="Tell the tokens of a text or a chat",
        description="vLLM's API: the ids that the model would read, and how many they are.",
        request=wire.TokenizeRequest,
        response=wire.TokenizeResponse,
        errors=(*_JSON_BODY, *_POD, *_PROMPT, "unsupported_modality"),
    ),
    Route(
        method="POST",
        path="/detokenize",
        handler=openai.tokenize,
        operation_id="detokenize",
        scope=Scope.GENERATE,
        summary="Tell the text of tokens",
        description="vLLM's API.",
        request=wire.DetokenizeRequest,
        response=wire.DetokenizeResponse,
        errors=(*_JSON_BODY, *_POD),
    ),
    Route(
        method="POST",
        path="/v1/audio/transcriptions",
        handler=openai.create_transcription,
        operation_id="create_transcription",
        scope=Scope.GENERATE,
        summary="Write down what is said in an audio file",
        description="OpenAI's API, by models that take audio.",
        request=Form(fields=wire.TranscriptionRequest, files={"file": "The audio, or a video with sound."}),
        response=wire.TranscriptionResponse,
        media_types=("text/plain",),
        events=(wire.TranscriptionDelta, wire.TranscriptionDone),
        errors=(*_BODY, *_POD, *_PROMPT, "undecodable_audio", "media_too_large", "unsupported_modality"),
    ),
    Route(
        method="GET",
        path="/v1/models",
        handler=models.list_models,
        operation_id="list_models",
        scope=Scope.GENERATE,
        summary="List all models",
        description="OpenAI's API: each model by its name, then by its aliases, whether or not a pod runs.",
        response=wire.ModelList,
    ),
    Route(
        method="GET",
        path="/v1/models/{id}",
        handler=models.get_model,
        operation_id="get_model",
        scope=Scope.GENERATE,
        summary="Describe one model",
        description="OpenAI's API.",
        parameters={"id": "Name or alias of a model; `_` and `-` are alike."},
        response=wire.ModelCard,
        errors=("model_not_found",),
    ),
    Route(
        method="GET",
        path="/overview",
        handler=overview.get_overview,
        operation_id="get_overview",
        scope=Scope.GENERATE,
        summary="Show how the models are",
        description="All that the page and `ams top` show of the models that the key may use. With `Accept: "
        "text/event-stream` a stream: an `event: overview` with all of it at once and about once a second where "
        "something changed, and a comment each 15 seconds. Pods, memory, and errors of other users' own requests are "
        "for keys with the scope `admin`.",
        response=wire.Overview,
        events=(wire.Overview,),
        errors=("queue_full",),
    ),
    Route(
        method="GET",
        path="/health",
        handler=service.get_health,
        operation_id="get_health",
        scope=Scope.PUBLIC,
        summary="Check that the gateway is alive",
        description="Answers as long as the process lives, whatever its models do.",
        response=wire.HealthResponse,
    ),
    Route(
        method="GET",
        path="/ready",
        handler=service.get_ready,
        operation_id="get_ready",
        scope=Scope.PUBLIC,
        summary="Check that the gateway takes requests",
        description="For load balancers.",
        response=wire.ReadyResponse,
        other_statuses={503: "The gateway is stopping."},
    ),
    Route(
        method="GET",
        path="/admin/memory_status",
        handler=admin.get_memory_status,
        operation_id="get_memory_status",
        scope=Scope.ADMIN,
        summary="Report the memory of all pods",
        description="Sums over all pods with a GPU; `memory_warning` and `multimodal_safe` hold for the worst device.",
        response=bodies.MemoryStatus,
    ),
    Route(
        method="GET",
        path="/admin/model_status",
        handler=admin.get_model_status,
        operation_id="get_model_status",
        scope=Scope.ADMIN,
        summary="Report the state of all models",
        description="What is known of each model, and what its pods report where they run.",
        response=bodies.ModelStatuses,
    ),
    Route(
        method="GET",
        path="/admin/temp_status",
        handler=admin.get_temp_status,
        operation_id="get_temp_status",
        scope=Scope.ADMIN,
        summary="List the temporary files of all pods",
        description="A folder that several pods share counts once.",
        response=bodies.TempStatus,
    ),
    Route(
        method="POST",
        path="/admin/emergency_cleanup",
        handler=admin.run_emergency_cleanup,
        operation_id="run_emergency_cleanup",
        scope=Scope.ADMIN,
        summary="Free memory on all pods",
        description="Frees what no running request needs; running requests are not disturbed.",
        response=bodies.EmergencyCleanup,
    ),
    Route(
        method="POST",
        path="/admin/cleanup_temp",
        handler=admin.run_temp_cleanup,
        operation_id="run_temp_cleanup",
        scope=Scope.ADMIN,
        summary="Remove unused temporary files on all pods",
        description="Files that a request uses stay.",
        response=bodies.CleanedTemp,
    ),
    Route(
        method="POST",
        path="/admin/models/{model}/start",
        handler=controls.start_model,
        operation_id="start_model",
        scope=Scope.ADMIN,
        summary="Start a model",
        description="As a request for it would, also where it failed a moment ago; under `ams up` alone.",
        parameters={"model": "Name or alias of a model; `_` and `-` are alike."},
        response=bodies.ModelAction,
        errors=(
            "unsupported_media_type",
            "model_not_found",
            "model_not_allowed",
            "not_controllable",
            "suspended",
            "draining",
        ),
    ),
    Route(
        method="POST",
        path="/admin/models/{model}/stop",
        handler=controls.stop_model,
        operation_id="stop_model",
        scope=Scope.ADMIN,
        summary="Stop a model",
        description="Its running requests are finished, those that wait for it are refused; the next one starts it "
        "again. Under `ams up` alone.",
        parameters={"model": "Name or alias of a model; `_` and `-` are alike."},
        response=bodies.ModelAction,
        errors=("unsupported_media_type", "model_not_found", "model_not_allowed", "not_controllable"),
    ),
    Route(
        method="GET",
        path="/admin/models/{model}/logs",
        handler=controls.get_log,
        operation_id="get_model_log",
        scope=Scope.ADMIN,
        summary="Show what a model's processes wrote",
        description="The end of it, since its current start-up began, at most 256 KiB; under `ams up` alone.",
        parameters={"model": "Name or alias of a model; `_` and `-` are alike."},
        media_types=("text/plain",),
        errors=("model_not_found", "model_not_allowed", "not_controllable"),
    ),
    Route(
        method="GET",
        path="/admin/usage",
        handler=usage.get_usage,
        operation_id="get_usage",
        scope=Scope.ADMIN,
        summary="Report what keys have used",
        description="Requests, tokens, media and compute time, of this month and by key unless the query says else: "
        "`from` and `to` are dates (`2026-11-26`, as an end with that day) or times (`2026-11-26T06:00:00Z`), taken to "
        "whole hours; `group` is one or more of `key`, `model`, `outcome` and one of `hour`, `day`, `month`, separated "
        "by commas; `format=csv`, or `Accept: text/csv`, gives the rows as CSV.",
        response=wire.UsageReport,
        media_types=("text/csv",),
        errors=("invalid_parameter", "usage_unavailable"),
    ),
    Route(
        method="GET",
        path="/admin/why",
        handler=why.get_why,
        operation_id="get_why",
        scope=Scope.ADMIN,
        summary="Explain a slow or failed request, or a model that isn't ready",
        description="`?request=ID`, with the id of an answer's `X-Request-Id` or of an error's `request_id`, or "
        "`?model=NAME`: causes, the weightiest first, with what was recorded and what to do.",
        response=Why,
        errors=("invalid_parameter", "model_not_found", "request_unknown"),
    ),
    Route(
        method="GET",
        path="/metrics",
        handler=monitoring.get_metrics,
        operation_id="get_metrics",
        scope=Scope.MONITORING,
        summary="Export metrics for Prometheus",
        description="Prometheus' text format, or OpenMetrics where `Accept` asks for it.",
        media_types=("text/plain",),
    ),
    Route(
        method="GET",
        path="/internal/demand",
        handler=monitoring.get_demand,
        operation_id="get_demand",
        scope=Scope.INTERNAL,
        summary="Report the demand for each model",
        description="For the operator, which scales by it.",
        response=DemandReport,
    ),
    Route(
        method="GET",
        path="/openapi.json",
        handler=service.get_openapi,
        operation_id="get_openapi",
        scope=Scope.PUBLIC,
        summary="Describe this API in OpenAPI 3.1",
        description="The document that this operation is part of.",
        response=dict[str, Any],
    ),
    Route(
        method="GET",
        path="/",
        handler=page.get_page,
        operation_id="get_page",
        scope=Scope.PUBLIC,
        summary="Show the models to a person",
        description="The page with models, playground and usage. What it shows comes from the other routes, with the "
        "key of whoever looks.",
        media_types=("text/html",),
    ),
    Route(
        method="GET",
        path="/page/{file}",
        handler=page.get_page_file,
        operation_id="get_page_file",
        scope=Scope.PUBLIC,
        summary="Give a file of the page",
        description="Scripts and style sheets, below a folder that changes with them.",
        parameters={"file": "Name of the file, after the folder of its version."},
        media_types=("text/javascript", "text/css", "application/json"),
        errors=("not_found",),
    ),
)


def client_routes(*, with_metrics: bool) -> tuple[Route, ...]:
    """The routes of the port that clients use; metrics are among them unless they have a port of their own."""
    scopes = {Scope.PUBLIC, Scope.GENERATE, Scope.ADMIN} | ({Scope.MONITORING} if with_metrics else set())
    return tuple(route for route in ROUTES if route.scope in scopes)


def monitoring_routes() -> tuple[Route, ...]:
    """The routes of the metrics' own port. Probes are among them: a kubelet has no client certificate to show."""
    scopes = (Scope.MONITORING, Scope.INTERNAL)
    return tuple(route for route in ROUTES if route.scope in scopes or route.path in ("/health", "/ready"))
