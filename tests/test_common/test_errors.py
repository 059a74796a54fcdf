"""Both shapes of an error, and the headers that clients act on."""

import json

import pytest
from ams_common.dialects import error_event
from ams_common.errors import ERRORS, ApiError

# 4-xx and 5-xx codes that clients rely on.
STATUS = {
    400: {
        "invalid_json",
        "invalid_parameter",
        "invalid_base64",
        "undecodable_image",
        "undecodable_audio",
        "undecodable_video",
        "missing_prompt",
        "context_length_exceeded",
    },
    404: {"model_not_found"},
    413: {"body_too_large", "media_too_large"},
    422: {"unsupported_modality"},
    429: {"queue_full"},
    500: {"generation_failed"},
    503: {"model_loading", "model_failed", "suspended", "insufficient_memory", "no_backend"},
    504: {"timeout"},
}


def test_documented_codes_have_their_status() -> None:
    assert {code: ERRORS[code].status for codes in STATUS.values() for code in codes} == {
        code: status for status, codes in STATUS.items() for code in codes
    }


def test_the_native_body() -> None:
    error = ApiError("queue_full", "Busy.", param="prompt", retry_after=1.26, limit=64)
    assert json.loads(error.body("/generate/smollm2", "r1")) == {
        "error": "Busy.",
        "details": {
            "code": "queue_full",
            "request_id": "r1",
            "param": "prompt",
            "retry_after_seconds": 1.3,
            "limit": 64,
        },
    }
    assert (error.status, error.headers) == (429, {"Retry-After": "2"})


def test_the_openai_body() -> None:
    error = ApiError("model_not_found", "No model x.", models=["a"])
    assert json.loads(error.body("/v1/chat/completions", "r1")) == {
        "error": {
            "message": "No model x.",
            "type": "invalid_request_error",
            "param": None,
            "code": "model_not_found",
            "request_id": "r1",
        }
    }


def test_the_body_of_anthropics_api() -> None:
    error = ApiError("model_not_found", "No model x.", param="model", models=["a"])
    for path in ("/v1/messages", "/v1/messages/count_tokens", "/messages", "//v1/v1/messages/"):
        assert json.loads(error.body(path, "r1")) == {
            "type": "error",
            "error": {
                "type": "not_found_error", "message": "No model x.", "code": "model_not_found", "param": "model",
            },
            "request_id": "r1",
        }  # fmt: skip
    assert "error" in json.loads(error.body("/generate/messages", "r1"))
    assert "details" in json.loads(error.body("/generate/messages", "r1"))
    kinds = {kind.anthropic_type for kind in ERRORS.values()}
    assert kinds == {
        "invalid_request_error", "authentication_error", "permission_error", "not_found_error", "request_too_large",
        "rate_limit_error", "api_error", "overloaded_error", "timeout_error",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("path", "begins"),
    [
        ("/generate/m", b'event: error\ndata: {"error":"No."'),
        ("/v1/chat/completions", b'data: {"error":{"message":"No."'),
        ("/v1/responses", b'event: response.failed\ndata: {"type":"response.failed","sequence_number":0,'),
        ("/v1/messages", b'event: error\ndata: {"error":{"type":"timeout_error"'),
    ],
)
def test_an_error_in_a_stream(path: str, begins: bytes) -> None:
    event = error_event(ApiError("timeout", "No.").body(path, "r1"), path)
    assert event.startswith(begins)
    assert event.endswith(b"}\n\n")
    if path == "/v1/responses":
        last = event.split(b"\n\n")[1]
        assert last.startswith(b'event: error\ndata: {"error":{"message":"No."')
        told = ApiError("timeout", "No.").body(path, "r1")
        assert error_event(told, path, 7) == last.replace(b'"sequence_number":1', b'"sequence_number":7') + b"\n\n"
    assert error_event(b"no JSON", "/v1/responses") == b"event: error\ndata: no JSON\n\n"


def test_clients_retry_only_what_may_succeed_later() -> None:
    forbidden = {code for code in ERRORS if ApiError(code, "No.").headers == {"X-Should-Retry": "false"}}
    assert forbidden == {"model_failed", "not_controllable", "suspended", "timeout", "token_limit"}
    assert all(ApiError(code, "No.").headers == {} for code in set(ERRORS) - forbidden)


def test_own_headers_and_a_short_wait() -> None:
    error = ApiError("method_not_allowed", "No.", headers={"Allow": "POST"}, retry_after=0.01)
    assert error.headers == {"Allow": "POST", "Retry-After": "1"}


def test_an_unknown_code_is_a_programming_error() -> None:
    with pytest.raises(KeyError):
        ApiError("no_such_code", "No.")
