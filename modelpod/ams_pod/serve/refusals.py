"""The answer to a request that the engine refused or failed on: its errors as those of the HTTP API."""

import contextlib
from collections.abc import Iterator
from typing import Any

from ams_common.errors import ApiError

from ams_pod.engines.port import EngineError, EngineRefusal, RefusalKind

_RETRY_SECONDS: dict[RefusalKind, float] = {"out-of-memory": 10.0, "engine-lost": 2.0}
_KINDS: dict[RefusalKind, str] = {
    "invalid-prompt": "invalid_parameter",
    "invalid-constraint": "invalid_parameter",
    "unsupported": "invalid_parameter",
    "missing-prompt": "missing_prompt",
    "unsupported-modality": "unsupported_modality",
    "context-length-exceeded": "context_length_exceeded",
    "out-of-memory": "insufficient_memory",
    "engine-lost": "backend_failed",
    "engine-failed": "backend_failed",
}


def api_error(error: BaseException) -> ApiError:
    """The answer of a request that ended with this error of the engine."""
    if not isinstance(error, EngineRefusal):
        sentence = str(error) if isinstance(error, EngineError) else "The model failed on this request."
        return ApiError("generation_failed", sentence)
    details: dict[str, Any] = {"param": error.part, "limit": error.limit, "given": error.given}
    return ApiError(
        _KINDS[error.kind],
        str(error),
        retry_after=_RETRY_SECONDS.get(error.kind),
        **{name: value for name, value in details.items() if value is not None},
    )


@contextlib.contextmanager
def refusals_as_api_errors() -> Iterator[None]:
    """Within the block, an EngineRefusal becomes the ApiError of its kind."""
    try:
        yield
    except EngineRefusal as refusal:
        raise api_error(refusal) from None
