"""Any other server that speaks OpenAI's protocol: what it takes is tried once, when it has started."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from ams_pod.engines.openai.dialects.base import Dialect

_ANSWERS_WITHOUT = (400, 422)
_OPTIONS = "stream_options"


class Custom(Dialect):
    """Nothing is known of it beforehand."""

    tries_prompts: ClassVar[bool] = True
    health_paths: ClassVar[tuple[str, ...]] = ("/health", "/v1/models")

    def dispensable(self, status: int, body: bytes) -> str | None:
        """How many tokens there were is then told by their events alone."""
        return _OPTIONS if status in _ANSWERS_WITHOUT and _OPTIONS.encode() in body else None

    def stream_fields(self, without: frozenset[str]) -> Mapping[str, object]:
        fields = super().stream_fields(without)
        return {name: value for name, value in fields.items() if name not in without}

    def label(self, facts: object) -> str:
        return "custom"

    def model_of(self, listed: Sequence[str], own: Sequence[str]) -> str:
        """The one of our names; else the only one. Of others nobody knows which is meant: none."""
        known = [name for name in own if name in listed]
        return known[0] if known else listed[0] if len(listed) == 1 else ""
