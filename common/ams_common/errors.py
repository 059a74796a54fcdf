"""Errors that a client sees: stable codes, their HTTP status, and the two shapes of their bodies."""

from dataclasses import dataclass
from typing import Any

import msgspec


@dataclass(frozen=True, slots=True)
class ErrorKind:
    """What a code means on HTTP. `openai_type` is the `type` of OpenAI's error envelope."""

    status: int
    openai_type: str
    retryable: bool = False


_INVALID = "invalid_request_error"

ERRORS: dict[str, ErrorKind] = {
    "invalid_json": ErrorKind(400, _INVALID),
    "invalid_parameter": ErrorKind(400, _INVALID),
    "invalid_base64": ErrorKind(400, _INVALID),
    "undecodable_image": ErrorKind(400, _INVALID),
    "undecodable_audio": ErrorKind(400, _INVALID),
    "undecodable_video": ErrorKind(400, _INVALID),
    "missing_prompt": ErrorKind(400, _INVALID),
    "context_length_exceeded": ErrorKind(400, _INVALID),
    "bad_request": ErrorKind(400, _INVALID),
    "missing_key": ErrorKind(401, "authentication_error"),
    "invalid_key": ErrorKind(401, "authentication_error"),
    "model_not_allowed": ErrorKind(403, "permission_error"),
    "admin_required": ErrorKind(403, "permission_error"),
    "not_found": ErrorKind(404, _INVALID),
    "model_not_found": ErrorKind(404, _INVALID),
    "method_not_allowed": ErrorKind(405, _INVALID),
    "request_timeout": ErrorKind(408, _INVALID),
    "body_too_large": ErrorKind(413, _INVALID),
    "media_too_large": ErrorKind(413, _INVALID),
    "unsupported_media_type": ErrorKind(415, _INVALID),
    "unsupported_modality": ErrorKind(422, _INVALID),
    "queue_full": ErrorKind(429, "rate_limit_error", retryable=True),
    "rate_limited": ErrorKind(429, "rate_limit_error", retryable=True),
    "token_limit": ErrorKind(429, "rate_limit_error"),
    "headers_too_large": ErrorKind(431, _INVALID),
    "generation_failed": ErrorKind(500, "server_error"),
    "internal_error": ErrorKind(500, "server_error"),
    "backend_failed": ErrorKind(502, "server_error", retryable=True),
    "model_loading": ErrorKind(503, "server_error", retryable=True),
    "model_failed": ErrorKind(503, "server_error"),
    "suspended": ErrorKind(503, "server_error"),
    "insufficient_memory": ErrorKind(503, "server_error", retryable=True),
    "no_backend": ErrorKind(503, "server_error", retryable=True),
    "draining": ErrorKind(503, "server_error", retryable=True),
    "timeout": ErrorKind(504, "server_error"),
}


class ApiError(Exception):
    """One refused or failed request.

    `message` is a sentence for a person. `param` names the offending field of the request. `retry_after` is in
    seconds and becomes the Retry-After header. `details` holds what helps: limit, given, allowed, models, eta.
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
            headers["Retry-After"] = str(max(1, round(self.retry_after)))
        if self.code in ("model_failed", "token_limit", "timeout"):
            headers["X-Should-Retry"] = "false"  # OpenAI's client obeys it; a retry would only repeat the failure
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

    def body(self, path: str, request_id: str) -> bytes:
        """The encoded body in the shape that clients of `path` expect."""
        return msgspec.json.encode(self.openai(request_id) if path.startswith("/v1") else self.native(request_id))
