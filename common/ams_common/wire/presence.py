"""Requests that hold nothing to answer, which their types alone don't tell."""

from typing import Any

from ams_common.errors import ApiError
from ams_common.wire.generate import GenerateRequest
from ams_common.wire.openai import CompletionRequest
from ams_common.wire.responses import ResponsesRequest
from ams_common.wire.tokenizing import TokenizeRequest


def check_presence(request: Any) -> None:
    """ApiError where there is no prompt, or two; a request of a type that always has one passes."""
    match request:
        case GenerateRequest():
            if not request.prompt.strip():
                raise empty_prompt()
        case CompletionRequest():
            if not request.prompt:
                raise empty_prompt()
        case ResponsesRequest():
            if not (request.input or request.instructions or request.previous_items or request.previous_response_id):
                raise empty_input()
        case TokenizeRequest():
            if (request.prompt is None) == (request.messages is None):
                raise ApiError("invalid_parameter", "prompt: send either prompt or messages.", param="prompt")


def empty_prompt() -> ApiError:
    return ApiError("missing_prompt", "prompt must not be empty.", param="prompt")


def empty_input() -> ApiError:
    """Of OpenAI's responses."""
    return ApiError("missing_prompt", "input is empty: the text or the items to answer.", param="input")


def no_file() -> ApiError:
    """Of a form for a transcription."""
    return ApiError("invalid_parameter", "file is required: the audio to transcribe.", param="file")
