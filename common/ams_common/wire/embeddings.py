"""Bodies of /v1/embeddings (OpenAI) and /v1/rerank (as Jina, Cohere and vLLM have it)."""

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from ams_common.wire.fields import TokenId

_TEXTS = 2048
_IDS = Annotated[list[TokenId], Meta(min_length=1)]


class EmbeddingRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Texts to be made into vectors."""

    model: Annotated[str, Meta(description="Name or alias of a model; `_` and `-` are alike.")]
    input: Annotated[
        str | Annotated[list[str | TokenId | _IDS], Meta(min_length=1)],
        Meta(description="A text, a list of up to 2,048 texts, token ids, or a list of such lists."),
    ]
    encoding_format: Annotated[
        Literal["float", "base64"] | None, Meta(description="`base64`: little-endian float32. Left out: numbers.")
    ] = None
    dimensions: Annotated[
        Annotated[int, Meta(ge=1, le=1 << 20)] | None,
        Meta(description="Vectors are cut to so many values, and made unit vectors again."),
    ] = None
    prompt_name: Annotated[
        str | None,
        Meta(
            description="Which of the model's own prompts is put in front of each text, such as `query` or `document`."
        ),
    ] = None
    input_type: Annotated[
        str | None,
        Meta(description="The same, as other servers call it; `passage` means `document`."),
    ] = None


class EmbeddingData(msgspec.Struct, frozen=True, kw_only=True):
    """The vector of one text."""

    object: Annotated[Literal["embedding"], Meta(description="Kind of this object.")] = "embedding"
    index: Annotated[int, Meta(description="Which of the request's texts.")]
    embedding: Annotated[list[float] | str, Meta(description="Its values, or base64 of them.")]


class EmbeddingUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of one request."""

    prompt_tokens: Annotated[int, Meta(description="Tokens of all texts.")]
    total_tokens: Annotated[int, Meta(description="The same.")]


class EmbeddingResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of /v1/embeddings."""

    object: Annotated[Literal["list"], Meta(description="Kind of this body.")] = "list"
    data: Annotated[list[EmbeddingData], Meta(description="The vectors, in the texts' order.")]
    model: Annotated[str, Meta(description="Name of the model that answered.")]
    usage: Annotated[EmbeddingUsage, Meta(description="Tokens of all texts.")]


class RerankDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A document to be compared with the query."""

    text: Annotated[str, Meta(description="Its text.")]


class RerankRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Documents to be put in the order in which they answer a query."""

    model: Annotated[str, Meta(description="Name or alias of a model; `_` and `-` are alike.")]
    query: Annotated[str, Meta(min_length=1, description="What is looked for.")]
    documents: Annotated[
        Annotated[list[str | RerankDocument], Meta(min_length=1, max_length=_TEXTS)],
        Meta(description="Up to 2,048 texts."),
    ]
    top_n: Annotated[
        Annotated[int, Meta(ge=1)] | None, Meta(description="So many of the best are told; left out: all.")
    ] = None
    return_documents: Annotated[bool | None, Meta(description="`true` for the texts in the answer.")] = None


class RerankResult(msgspec.Struct, frozen=True, kw_only=True):
    """How well one document answers the query."""

    index: Annotated[int, Meta(description="Which of the request's documents.")]
    relevance_score: Annotated[float, Meta(description="The higher the better.")]
    document: Annotated[RerankDocument | UnsetType, Meta(description="The document, if asked for.")] = UNSET


class RerankResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of /v1/rerank."""

    id: Annotated[str, Meta(description="Id of this answer.")]
    model: Annotated[str, Meta(description="Name of the model that answered.")]
    results: Annotated[list[RerankResult], Meta(description="The documents, the best first.")]
    usage: Annotated[EmbeddingUsage, Meta(description="Tokens of all that was read.")]
