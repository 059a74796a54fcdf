"""Any other server that speaks OpenAI's protocol: what it takes is tried once, when it has started."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ams_pod.engines.openai.dialects.base import Dialect
from ams_pod.engines.openai.pieces import Scale, VectorForm

_VECTORS = ("/v1/embeddings", "/embeddings")
_SCORES = ("/v1/rerank", "/rerank")
_ANSWERS_WITHOUT = (400, 422)
_OPTIONS = "stream_options"


class Custom(Dialect):
    """Nothing is known of it beforehand."""

    tries_prompts: ClassVar[bool] = True
    vector_forms: ClassVar[Sequence[VectorForm]] = tuple(
        VectorForm(route, prompt, encoding)
        for route in _VECTORS
        for prompt in ("ids", "text")
        for encoding in ("base64", "float")
    )
    score_forms: ClassVar[Sequence[VectorForm]] = (
        *(VectorForm(route, "text", pairs="documents") for route in _SCORES),
        *(VectorForm(route, "text", pairs="texts") for route in reversed(_SCORES)),
        VectorForm("/v1/score", "text", pairs="score"),
    )
    pools_freely: ClassVar[bool] = True
    health_paths: ClassVar[tuple[str, ...]] = ("/health", "/v1/models")
    facts_paths: ClassVar[tuple[str, ...]] = ("/v1/models", "/models")
    older_paths: ClassVar[Mapping[str, str]] = {"/models": "/v1/models"}

    def scale_of(self, config: Mapping[str, Any]) -> Scale | None:
        return None

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
