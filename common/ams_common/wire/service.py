"""What the gateway says of itself and its models, and what it reads of bodies that it passes on."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from ams_common.lifecycle import Phase


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """One name of a model, in OpenAI's words, and what clients need to know before they ask it."""

    id: Annotated[str, Meta(description="Name of the model.")]
    object: Annotated[Literal["model"], Meta(description="Kind of this body.")] = "model"
    created: Annotated[int, Meta(description="Unix time when the model was deployed, in seconds.")]
    owned_by: Annotated[str, Meta(description="Always `ai-model-server`.")] = "ai-model-server"
    root: Annotated[str, Meta(description="The model's own name, where the id is an alias; of an adapter the id.")]
    parent: Annotated[
        str | None, Meta(description="The model that an adapter is applied to; null for a model itself.")
    ] = None
    state: Annotated[Phase, Meta(description="How far the model is; `ready` when it answers at once.")]
    max_model_len: Annotated[
        int | None, Meta(description="Tokens of prompt and answer together; null until the model has been loaded.")
    ] = None
    max_completion_tokens: Annotated[
        int | None, Meta(description="Longest answer in tokens; null until the model has been loaded.")
    ] = None
    modalities: Annotated[
        list[str] | None, Meta(description="What the model takes: `text`, `image`, `audio`, `video`; null if unknown.")
    ] = None
    features: Annotated[
        list[str] | None,
        Meta(
            description="`reasoning`: answers may have reasoning_content; `raw-prompts`: /v1/completions; "
            "`constraints`: structured output; `logprobs`: of answers and prompts; `tools`: it may call tools; "
            "`single-question`: one message of a user, and no chat; null until the model has been loaded."
        ),
    ] = None


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

    status: Annotated[
        Literal["ready", "draining", "loading-keys"],
        Meta(description="`draining` while the gateway stops, `loading-keys` until it has read its keys."),
    ]


class PeekPart(msgspec.Struct, frozen=True):
    """A part of a message: its kind, and its text as JSON."""

    type: str = "text"
    text: msgspec.Raw = msgspec.Raw()


class PeekMessage(msgspec.Struct, frozen=True):
    """A message, as far as its size and kinds go."""

    content: str | list[PeekPart] | None = None


class RoutingFields(msgspec.Struct, frozen=True):
    """What the gateway reads of a /v1 body: where it goes, whether it streams, which modalities it holds, how much.

    What may be of any type is the pod's to refuse.
    """

    model: str
    stream: bool | None = None
    messages: list[PeekMessage] = []
    prompt: msgspec.Raw = msgspec.Raw()
    max_tokens: Any = None
    max_completion_tokens: Any = None
    tools: msgspec.Raw = msgspec.Raw()
    n: Any = None
    best_of: Any = None


class PeekItem(msgspec.Struct, frozen=True):
    """An item of a /v1/responses body, as far as its size and kinds go."""

    content: str | list[PeekPart] | None = None
    output: str | list[PeekPart] | None = None
    arguments: str | None = None
    input: str | None = None


class ResponsesRoutingFields(msgspec.Struct, frozen=True):
    """As `RoutingFields`, of a /v1/responses body; and whether it goes on from a response, and is to be kept."""

    model: str
    stream: bool | None = None
    input: str | list[PeekItem] = ""
    previous_response_id: str | None = None
    store: bool | None = None
    instructions: msgspec.Raw = msgspec.Raw()
    tools: msgspec.Raw = msgspec.Raw()
    max_output_tokens: Any = None


class PeekBlock(msgspec.Struct, frozen=True):
    """A block of a message: its kind, its text, and what is in it, as JSON."""

    type: str = "text"
    text: msgspec.Raw = msgspec.Raw()
    content: msgspec.Raw = msgspec.Raw()
    input: msgspec.Raw = msgspec.Raw()


class PeekTurn(msgspec.Struct, frozen=True):
    """A message of a /v1/messages body, as far as its size and kinds go."""

    content: str | list[PeekBlock] = ""


class MessagesRoutingFields(msgspec.Struct, frozen=True):
    """As `RoutingFields`, of a /v1/messages body."""

    model: str
    stream: bool | None = None
    messages: list[PeekTurn] = []
    system: msgspec.Raw = msgspec.Raw()
    tools: msgspec.Raw = msgspec.Raw()
    max_tokens: Any = None
