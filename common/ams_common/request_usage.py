"""What one request used, as a pod tells its gateway: in the header of an answer, or in the last comment of a stream."""

import re

import msgspec

_FIELDS = re.compile(
    rb"prompt=(\d{1,15}) completion=(\d{1,15})"
    rb"(?: cached=(\d{1,15}))?(?: media=(\d{1,9}))?(?: compute=(\d{1,9}(?:\.\d{1,9})?))?"
)


class RequestUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of the prompt, of them cached ones that were not computed again, and of the answer; pieces of media.

    `compute_seconds` is the request's part of the time that the model computed: a step's time is shared out over the
    tokens in it, so that the sum over all requests is the time that the model was busy.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    media: int = 0
    compute_seconds: float = 0.0

    def text(self) -> str:
        """`prompt=12 completion=34 cached=0 media=0 compute=0.012345`"""
        return (
            f"prompt={self.prompt_tokens} completion={self.completion_tokens} cached={self.cached_tokens} "
            f"media={self.media} compute={self.compute_seconds:.6f}"
        )


def parse_usage(text: bytes) -> RequestUsage | None:
    """What `RequestUsage.text` wrote, anywhere in `text`; None if it isn't there. Pods of other makes may leave out
    all after the completion's tokens."""
    match = _FIELDS.search(text)
    if match is None:
        return None
    prompt, completion, cached, media, compute = match.groups(b"0")
    return RequestUsage(
        prompt_tokens=int(prompt),
        completion_tokens=int(completion),
        cached_tokens=int(cached),
        media=int(media),
        compute_seconds=float(compute),
    )
