"""What a request asks for, read as a pod would: of those that would wake a model, as a wrong one must not."""

from collections.abc import Callable, Mapping
from typing import Any

from ams_common import wire
from ams_common.request_body import RequestReader
from ams_common.wire import messages, responses
from ams_common.wire.presence import check_presence

from ams_gateway.front.body import Body, WholeBody

_READERS: Mapping[str, RequestReader[Any]] = {
    path: RequestReader(type_)
    for path, type_ in (
        ("/generate", wire.GenerateRequest),
        ("/v1/chat/completions", wire.ChatRequest),
        ("/v1/completions", wire.CompletionRequest),
        ("/v1/embeddings", wire.EmbeddingRequest),
        ("/v1/rerank", wire.RerankRequest),
        ("/v1/responses", responses.ResponsesRequest),
        ("/v1/messages", messages.MessagesRequest),
        ("/v1/messages/count_tokens", messages.CountTokensRequest),
        ("/tokenize", wire.TokenizeRequest),
        ("/detokenize", wire.DetokenizeRequest),
    )
}


def wants_stream(path: str, body: Body) -> Callable[[], bool]:
    """Whether the JSON body of a request to `path` of a pod asks for a stream. It raises ApiError for a body that the
    pod would refuse, and is to be called where no pod is ready only: a pod reads each body itself."""

    def read() -> bool:
        data = body.data if isinstance(body, WholeBody) else body.outline
        fields, _ = _READERS[path].read(data)
        check_presence(fields)
        return getattr(fields, "stream", None) is True

    return read
