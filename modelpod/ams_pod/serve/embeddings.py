"""`POST /v1/embeddings` and `/v1/rerank`: texts as vectors, and documents in the order in which they answer a query."""

import asyncio
import base64
import math
import secrets
import struct
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import msgspec
from aiohttp import web
from ams_common.errors import ApiError
from ams_common.names import HEADER_ANSWER_VERSION, HEADER_IGNORED_FIELDS, HEADER_MODEL
from ams_common.request_body import RequestReader, named
from ams_common.request_usage import RequestUsage
from ams_common.wire.embeddings import (
    EmbeddingData,
    EmbeddingRequest,
    EmbeddingResponse,
    EmbeddingUsage,
    RerankDocument,
    RerankRequest,
    RerankResponse,
    RerankResult,
)

from ams_pod.engines.port import Capabilities, Engine, Prepared, Sampling, Ticket, TokenEvent
from ams_pod.serve.keys import METER, POD, SHARE
from ams_pod.serve.models import check_model
from ams_pod.serve.pod import ModelPod
from ams_pod.serve.reading import json_body
from ams_pod.serve.refusals import api_error, refusals_as_api_errors
from ams_pod.serve.request_meter import RequestMeter

_EMBEDDINGS = RequestReader(EmbeddingRequest)
_RERANK = RequestReader(RerankRequest)
_MOST_TEXTS = 2048
_NO_SAMPLING = Sampling(max_new_tokens=1)

Text = str | list[int]


async def embeddings(request: web.Request) -> web.Response:
    pod = request.app[POD]
    async with json_body(request, _EMBEDDINGS, pod) as (fields, ignored):
        check_model(pod, fields.model)
        engine = pod.check_room(request[SHARE])
        if "embeddings" not in engine.capabilities.features:
            raise _wrong("model", f"{pod.settings.name} makes no embeddings.")
        texts = _texts(fields.input)
        prompt = _prompt(fields, engine.capabilities)
        size = engine.info.embedding_size or 0
        if fields.dimensions is not None and fields.dimensions > size:
            raise _wrong("dimensions", f"this model's vectors have {size} values.")

    def prepare(engine: Engine) -> list[Prepared]:
        return [
            engine.prepare_text(prompt + text) if isinstance(text, str) else engine.prepare_ids(text) for text in texts
        ]

    vectors, tokens = await _computed(request, pod, prepare)
    made = await pod.text_pool.run(_encoded, vectors, fields.dimensions, fields.encoding_format == "base64")
    body = EmbeddingResponse(
        data=[EmbeddingData(index=index, embedding=vector) for index, vector in enumerate(made)],
        model=fields.model,
        usage=EmbeddingUsage(prompt_tokens=tokens, total_tokens=tokens),
    )
    return _json(pod, body, ignored)


async def rerank(request: web.Request) -> web.Response:
    pod = request.app[POD]
    async with json_body(request, _RERANK, pod) as (fields, ignored):
        check_model(pod, fields.model)
        features = pod.check_room(request[SHARE]).capabilities.features
        if not features & {"rerank", "embeddings"}:
            raise _wrong("model", f"{pod.settings.name} compares no texts.")
        documents = [each if isinstance(each, str) else each.text for each in fields.documents]
        query = fields.query
        pairs = "rerank" in features

    def prepare(engine: Engine) -> list[Prepared]:
        if pairs:
            return [engine.prepare_pair(query, text) for text in documents]
        prompts = engine.capabilities.prompts
        texts = [prompts.get("query", "") + query, *(prompts.get("document", "") + text for text in documents)]
        return [engine.prepare_text(text) for text in texts]

    vectors, tokens = await _computed(request, pod, prepare)
    scores = [vector[0] for vector in vectors] if pairs else [_cosine(vectors[0], each) for each in vectors[1:]]
    order = sorted(range(len(scores)), key=lambda index: -scores[index])[: fields.top_n]
    results = [RerankResult(index=index, relevance_score=scores[index]) for index in order]
    if fields.return_documents:
        results = [
            msgspec.structs.replace(each, document=RerankDocument(text=documents[each.index])) for each in results
        ]
    usage = EmbeddingUsage(prompt_tokens=tokens, total_tokens=tokens)
    body = RerankResponse(id=f"rerank-{secrets.token_hex(12)}", model=fields.model, results=results, usage=usage)
    return _json(pod, body, ignored)


async def _computed(
    request: web.Request, pod: ModelPod, prepare: Callable[[Engine], list[Prepared]]
) -> tuple[list[Sequence[float]], int]:
    """What the engine makes of the request's texts, in their order, and how many tokens they had."""
    meter = request[METER] = pod.meter(request)
    async with pod.admit(meter) as engine:
        with refusals_as_api_errors():
            prepared = await pod.text_pool.run(prepare, engine, share=meter.share, waits=meter.waits)
            async with _Texts(engine, prepared, meter) as texts:
                return await texts.vectors(), texts.tokens


class _Texts:
    """An async context around the texts of one request: leaving it cancels what wasn't computed yet."""

    def __init__(self, engine: Engine, prepared: Sequence[Prepared], meter: RequestMeter) -> None:
        self._engine, self._prepared, self._meter = engine, prepared, meter
        self._parts: list[_Part] = []
        self._done = asyncio.Event()

    async def __aenter__(self) -> Self:
        for prepared in self._prepared:
            part = _Part(self._meter, self._note)
            self._parts.append(part)
            part.ticket = self._engine.submit(prepared, _NO_SAMPLING, part.take, self._meter.share)
            self._meter.add(part)
            if self._meter.track is not None:
                self._meter.track.tickets.append(part.ticket)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for part in self._parts:
            if part.ticket is not None and not part.ended:
                self._engine.cancel(part.ticket)

    async def vectors(self) -> list[Sequence[float]]:
        """ApiError if the model failed on one."""
        await self._done.wait()
        for part in self._parts:
            if part.error is not None:
                raise part.error
        return [part.vector for part in self._parts]

    @property
    def tokens(self) -> int:
        """Of all texts, as they were computed."""
        return sum(part.used.prompt_tokens for part in self._parts)

    def _note(self, part: "_Part") -> None:
        complete = len(self._parts) == len(self._prepared) and all(each.ended for each in self._parts)
        if complete or part.error is not None:
            self._done.set()


class _Part:
    """One text in the engine, as the request's meter sees it."""

    def __init__(self, meter: RequestMeter, note: Callable[["_Part"], None]) -> None:
        self.ticket: Ticket | None = None
        self.ended = False
        self.vector: Sequence[float] = ()
        self.error: ApiError | None = None
        self._meter, self._note = meter, note

    @property
    def started(self) -> bool:
        return self.ticket is not None and self.ticket.started_at is not None

    @property
    def used(self) -> RequestUsage:
        if self.ticket is None:
            return RequestUsage()
        return RequestUsage(prompt_tokens=len(self.ticket.prepared.ids), compute_seconds=self.ticket.compute_seconds)

    def take(self, event: TokenEvent) -> None:
        """An event of the engine, on the event loop."""
        self.ended = True
        if event.error is not None:
            self.error = api_error(event.error)
        elif event.finish == "cancelled":
            self.error = ApiError("draining", "This model is shutting down.", retry_after=5)
        else:
            self.vector = event.embedding or ()
        self._note(self)
        self._meter.settle()


def _texts(given: Any) -> list[Text]:
    """ApiError for what is no text, and for too many."""
    if isinstance(given, str):
        texts: list[Text] = [given]
    elif all(isinstance(each, int) for each in given):
        texts = [list(given)]
    elif all(isinstance(each, str) for each in given) or all(isinstance(each, list) for each in given):
        texts = list(given)
    else:
        raise _wrong("input", "expected texts, or lists of token ids, and not both in one list.")
    if len(texts) > _MOST_TEXTS:
        raise _wrong("input", f"has {len(texts)} texts; at most {_MOST_TEXTS} a request.")
    if "" in texts:
        raise ApiError("missing_prompt", "input: a text is empty.", param="input")
    return texts


def _prompt(fields: EmbeddingRequest, capabilities: Capabilities) -> str:
    """What is put in front of each text. ApiError for a name that the model doesn't have."""
    name = fields.prompt_name or fields.input_type
    prompts = capabilities.prompts
    if name is None:
        return prompts.get(capabilities.default_prompt or "", "")
    if name == "passage" and name not in prompts:
        name = "document"
    if name in prompts:
        return prompts[name]
    if fields.prompt_name is None:
        return ""  # a model without prompts reads queries and documents alike
    known = ", ".join(sorted(prompts)) or "none"
    raise _wrong("prompt_name", f"the model has no prompt {name[:60]!r}; its prompts: {known}.")


def _encoded(vectors: Sequence[Sequence[float]], size: int | None, packed: bool) -> list[list[float] | str]:
    made: list[list[float] | str] = []
    for vector in vectors:
        values = list(vector) if size is None else _unit(vector[:size])
        made.append(base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode() if packed else values)
    return made


def _unit(vector: Sequence[float]) -> list[float]:
    length = math.sqrt(sum(value * value for value in vector))
    return [value / length for value in vector] if length else list(vector)


def _cosine(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(_unit(one), _unit(other), strict=True))


def _wrong(param: str, sentence: str) -> ApiError:
    return ApiError("invalid_parameter", f"{param}: {sentence}", param=param)


def _json(pod: ModelPod, value: msgspec.Struct, ignored: list[str]) -> web.Response:
    headers = {HEADER_MODEL: pod.settings.name, HEADER_ANSWER_VERSION: pod.answer_version}
    if ignored:
        headers[HEADER_IGNORED_FIELDS] = named(ignored)
    return web.Response(body=msgspec.json.encode(value), content_type="application/json", headers=headers)
