"""What an API server refuses, by type; `str()` is the server's own sentence."""

import msgspec
from ams_common.outside import InvalidJson, read_json


class KubeError(Exception):
    """A request that didn't succeed. `status` is 0 where no answer came; `reason` is Kubernetes' CamelCase word."""

    def __init__(self, message: str, *, status: int = 0, reason: str = "", retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.reason = reason
        self.retry_after = retry_after


class Unavailable(KubeError):
    """No answer, or one that says to try again (429, 5xx): may pass by itself."""


class NotFound(KubeError):
    """404: the object isn't there, or its kind isn't."""


class Forbidden(KubeError):
    """401 or 403: the role doesn't allow it, or an admission plugin refuses it."""


class Conflict(KubeError):
    """409: the object changed meanwhile, is another one than meant, or its fields belong to someone else."""


class AlreadyExists(Conflict):
    """409: an object of this name is there."""


class Gone(KubeError):
    """410: the resource version is too old; list again."""


class Invalid(KubeError):
    """400 or 422: the object can't be taken as it is; the sentence says which field."""


class _Status(msgspec.Struct, frozen=True):
    message: str = ""
    reason: str = ""
    code: int = 0


_TYPES: dict[int, type[KubeError]] = {
    400: Invalid,
    401: Forbidden,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    422: Invalid,
    429: Unavailable,
}


def error_of_answer(status: int, body: bytes, retry_after: str | None = None) -> KubeError:
    """The error for an answer that isn't 2xx. `body` is a meta/v1 Status, or whatever stands in between."""
    try:
        told = read_json(body, _Status)
    except InvalidJson:
        told = _Status(body[:300].decode(errors="replace").strip())
    kind = Unavailable if status >= 500 else _TYPES.get(status, KubeError)
    if kind is Conflict and told.reason == "AlreadyExists":
        kind = AlreadyExists
    seconds = float(retry_after) if retry_after is not None and retry_after.isdigit() else None
    return kind(
        told.message or f"the API server answered {status}", status=status, reason=told.reason, retry_after=seconds
    )


def refused_event(raw: bytes) -> KubeError:
    """The error that a watch delivers as an event."""
    try:
        code = read_json(raw, _Status).code
    except InvalidJson:
        code = 0
    return error_of_answer(code or 500, raw)
