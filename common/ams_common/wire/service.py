"""What the gateway says of itself and its models, and what it reads of bodies that it passes on."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """One model, in OpenAI's words."""

    id: Annotated[str, Meta(description="Name of the model.")]
    object: Annotated[Literal["model"], Meta(description="Kind of this body.")] = "model"
    created: Annotated[int, Meta(description="Unix time when the model was deployed, in seconds.")]
    owned_by: Annotated[str, Meta(description="Always `ai-model-server`.")] = "ai-model-server"


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """All models."""

    object: Annotated[Literal["list"], Meta(description="Kind of this body.")] = "list"
    data: Annotated[list[ModelCard], Meta(description="The models, sorted by name.")]


class ModelCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers of models."""

    total: Annotated[int, Meta(description="All models.")]
    ready: Annotated[int, Meta(description="Models that have a ready pod.")]


class HealthResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The gateway is alive, whatever its models do."""

    status: Annotated[Literal["healthy"], Meta(description="Always `healthy`.")] = "healthy"
    timestamp: Annotated[int, Meta(description="Unix time, in seconds.")]
    available_endpoints: Annotated[list[str], Meta(description="Paths of all routes on this port.")]
    dependencies: Annotated[dict[str, str], Meta(description="Versions of Python and the main packages.")]
    models: Annotated[ModelCounts, Meta(description="How many models there are.")]


class ReadyResponse(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the gateway takes requests."""

    status: Annotated[Literal["ready", "draining"], Meta(description="`draining` while the gateway stops.")]


class _PeekPart(msgspec.Struct, frozen=True):
    type: str = "text"


class _PeekMessage(msgspec.Struct, frozen=True):
    content: str | list[_PeekPart] | None = None


class RoutingFields(msgspec.Struct, frozen=True):
    """What the gateway reads of a /v1 body: where it goes, whether it streams, which modalities it holds."""

    model: str
    stream: bool | None = None
    messages: list[_PeekMessage] = []
