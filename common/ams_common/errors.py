"""Errors that a client sees: stable codes, their HTTP status, and the shapes of their bodies."""

from dataclasses import dataclass
from math import ceil
from typing import Any

import msgspec

from ams_common.dialects import Dialect, dialect_of

_RETRIED_BY_CLIENTS = (408, 409, 429)  # and every status from 500 on: what OpenAI's client does by itself


@dataclass(frozen=True, slots=True)
class ErrorKind:
    """What a code means on HTTP.

    `meaning` is the line of docs/http.md. `retryable`: the same request may succeed later. OpenAI's client retries some
    statuses by itself; `forbids_retry` is where that would only repeat the failure.
    """

    status: int
    meaning: str
    retryable: bool = False

    @property
    def openai_type(self) -> str:
        """The `type` of OpenAI's error envelope."""
        if self.status >= 500:
            return "server_error"
        return "rate_limit_error" if self.status == 429 else "invalid_request_error"

    @property
    def anthropic_type(self) -> str:
        """The `type` of an error of Anthropic's API."""
        return _ANTHROPIC_TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "api_error")

    @property
    def forbids_retry(self) -> bool:
        return not self.retryable and (self.status >= 500 or self.status in _RETRIED_BY_CLIENTS)


# https://docs.anthropic.com/en/api/errors
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}

ERRORS: dict[str, ErrorKind] = {
    "invalid_json": ErrorKind(400, "the body is not JSON, not UTF-8, or nested too deeply"),
    "invalid_parameter": ErrorKind(400, "a field is wrong; `param` names it"),
    "invalid_base64": ErrorKind(400, "media that are not base64; `position` is the first wrong character"),
    "undecodable_image": ErrorKind(400, "an image that is empty, cut off or of an unknown format"),
    "undecodable_audio": ErrorKind(400, "audio that is empty, has no sound or is of an unknown format"),
    "undecodable_video": ErrorKind(400, "a video that is empty, has no frames or is of an unknown format"),
    "missing_prompt": ErrorKind(400, "the request has no text to answer"),
    "context_length_exceeded": ErrorKind(400, "the prompt is longer than the model's context"),
    "bad_request": ErrorKind(400, "the request is not valid HTTP"),
    "missing_key": ErrorKind(401, "the request has no API key; send `Authorization: Bearer <key>`"),
    "invalid_key": ErrorKind(401, "the API key or token is unknown, revoked or expired"),
    "model_not_allowed": ErrorKind(403, "the key may not use this model"),
    "admin_required": ErrorKind(403, "the key lacks the scope `admin`"),
    "scope_required": ErrorKind(403, "the key lacks the scope of this route; `scope` names it"),
    "host_not_allowed": ErrorKind(403, "the request's `Host` is no name of this server; see `--allowed-hosts`"),
    "origin_not_allowed": ErrorKind(403, "a web page of another origin; see `--allowed-origins`"),
    "not_found": ErrorKind(404, "no such route"),
    "model_not_found": ErrorKind(404, "no such model; the message lists the models"),
    "request_unknown": ErrorKind(404, "no record of the request; the message says how far back records go"),
    "response_not_found": ErrorKind(404, "no such response: it was not stored, or is kept no longer"),
    "previous_response_not_found": ErrorKind(
        404, "the response to go on from, or one before it, was not stored, or is kept no longer"
    ),
    "method_not_allowed": ErrorKind(405, "the route needs another method; `Allow` names it"),
    "not_controllable": ErrorKind(
        409, "something else starts and stops the model and keeps its log; the message says what to do"
    ),
    "request_timeout": ErrorKind(408, "the client sent its body too slowly", retryable=True),
    "body_too_large": ErrorKind(413, "the body is larger than the limit, or holds more values than allowed"),
    "media_too_large": ErrorKind(
        413, "media of more pixels, seconds, bytes or memory than allowed; the message has the numbers"
    ),
    "unsupported_media_type": ErrorKind(415, "the Content-Type is not JSON, or for transcriptions not a form"),
    "unsupported_modality": ErrorKind(
        422, "the model doesn't take this kind of media; `modalities` lists what it takes"
    ),
    "queue_full": ErrorKind(429, "too many requests are running or waiting; `Retry-After`", retryable=True),
    "rate_limited": ErrorKind(
        429, "the key's requests or tokens a minute, or requests at once, are used up; `Retry-After`", retryable=True
    ),
    "token_limit": ErrorKind(429, "the key's tokens of this month are used up"),
    "headers_too_large": ErrorKind(431, "the request line or a header is too long"),
    "generation_failed": ErrorKind(500, "the model failed on this request", retryable=True),
    "internal_error": ErrorKind(500, "the server failed; its log has the cause", retryable=True),
    "backend_failed": ErrorKind(
        502, "the model's process ended before its answer was complete, or gave one that can't be used", retryable=True
    ),
    "model_loading": ErrorKind(503, "the model isn't ready yet; phase, percent, `Retry-After`", retryable=True),
    "model_failed": ErrorKind(503, "the model can't be served; the message says why"),
    "suspended": ErrorKind(503, "the model is suspended by its manifest"),
    "insufficient_memory": ErrorKind(503, "memory ran out and no fallback was left; `Retry-After`", retryable=True),
    "overloaded": ErrorKind(503, "too many bodies are being received at once; `Retry-After`", retryable=True),
    "no_backend": ErrorKind(503, "no process of the model can be reached; `Retry-After`", retryable=True),
    "usage_unavailable": ErrorKind(503, "what keys have used can't be read now; `Retry-After`", retryable=True),
    "draining": ErrorKind(503, "the model's process is stopping; `Retry-After`", retryable=True),
    "timeout": ErrorKind(504, "the answer took longer than allowed and was cancelled"),
}


def errors_table() -> str:
    """The table of docs/http.md."""
    rows = [f"| {kind.status} | `{code}` | {kind.meaning} |" for code, kind in ERRORS.items()]
    return "\n".join(["| status | code | when |", "|---|---|---|", *rows]) + "\n"


class ApiError(Exception):
    """One refused or failed request.

    `message` is a sentence for a person. `param` names the offending field of the request. `retry_after` is in
    seconds and becomes the Retry-After header. `details` holds what helps: limit, given, allowed, models, phase.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after: float | None = None,
        headers: dict[str, str] | None = None,
        **details: Any,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.kind = ERRORS[code]
        self.message = message
        self.param = param
        self.retry_after = retry_after
        self.details = details
        self._headers = headers or {}

    @property
    def status(self) -> int:
        return self.kind.status

    @property
    def headers(self) -> dict[str, str]:
        headers = dict(self._headers)
        if self.retry_after is not None:
            headers["Retry-After"] = str(max(1, ceil(self.retry_after)))
        if self.kind.forbids_retry:
            headers["X-Should-Retry"] = "false"
        return headers

    def native(self, request_id: str) -> dict[str, Any]:
        """The body on /generate and /admin: {"error": sentence, "details": {"code", "request_id", ...}}."""
        details: dict[str, Any] = {"code": self.code, "request_id": request_id}
        if self.param is not None:
            details["param"] = self.param
        if self.retry_after is not None:
            details["retry_after_seconds"] = round(self.retry_after, 1)
        return {"error": self.message, "details": {**details, **self.details}}

    def openai(self, request_id: str) -> dict[str, Any]:
        """The body on /v1: OpenAI's envelope, with the same code."""
        return {
            "error": {
                "message": self.message,
                "type": self.kind.openai_type,
                "param": self.param,
                "code": self.code,
                "request_id": request_id,
            }
        }

    def anthropic(self, request_id: str) -> dict[str, Any]:
        """The body on /v1/messages: Anthropic's envelope, with our code beside its type."""
        error: dict[str, Any] = {"type": self.kind.anthropic_type, "message": self.message, "code": self.code}
        if self.param is not None:
            error["param"] = self.param
        if "error_code" in self.details:  # Anthropic's own, by which its clients know what else to try
            error["details"] = {"error_code": self.details["error_code"]}
        return {"error": error, "type": "error", "request_id": request_id}

    def body(self, path: str, request_id: str) -> bytes:
        """The encoded body in the shape that clients of `path` expect."""
        match dialect_of(path):
            case Dialect.NATIVE:
                return msgspec.json.encode(self.native(request_id))
            case Dialect.ANTHROPIC:
                return msgspec.json.encode(self.anthropic(request_id))
        return msgspec.json.encode(self.openai(request_id))
