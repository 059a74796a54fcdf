"""Errors inside an answer that has begun: the status line is out, so they travel as the stream's last event."""

from ams_common.errors import ApiError


def error_event(error: ApiError, path: str, request_id: str) -> bytes:
    """The last event of a stream, in the shape that clients of `path` expect; no [DONE] follows it."""
    return wrapped_error(error.body(path, request_id), path)


def wrapped_error(body: bytes, path: str) -> bytes:
    """An error's JSON body, which holds no line break, as an event. OpenAI's client raises APIError on the second."""
    return (b"data: " if path.startswith("/v1") else b"event: error\ndata: ") + body + b"\n\n"
