"""What all generating routes share: a place in the queue, media, the prompt, and the answer whole or streamed."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import msgspec
from aiohttp import web
from ams_common.errors import ApiError
from ams_common.names import (
    HEADER_ANSWER_VERSION,
    HEADER_IGNORED_FIELDS,
    HEADER_IMAGE_SIZE,
    HEADER_MODEL,
    HEADER_QUEUE_SECONDS,
)
from ams_common.request_body import named

from ams_pod.engines.port import Constraint, Engine, Prepared, Sampling
from ams_pod.media.decoding import Encoded
from ams_pod.media.items import Decoded, Image, flat
from ams_pod.media.spool import Spool
from ams_pod.serve.choices import Choices, ChoicesFormat, after, likeliest
from ams_pod.serve.events import DONE, EventStream
from ams_pod.serve.generation import PLAIN, AnswerRules, Generation
from ams_pod.serve.keys import METER, POD, REQUEST_ID
from ams_pod.serve.pod import ModelPod
from ams_pod.serve.refusals import refusals_as_api_errors
from ams_pod.serve.request_meter import RequestMeter
from ams_pod.serve.thinking import Delta

T = TypeVar("T")

_HALF = 1 << 63
_SILENCE_SECONDS = 1.0  # a stream's first byte comes at least this soon, answer or not

# Of a body whose prompt is made at once: a thread for it would cost more, and each of its turns at the interpreter is
# one for which the streams wait.
_SMALL_BYTES = 4096


class Format(Protocol):
    """How one API writes an answer."""

    def whole(self, delta: Delta, generation: Generation) -> msgspec.Struct | str: ...
    def begin(self, generation: Generation) -> bytes: ...
    def piece(self, delta: Delta) -> bytes: ...
    def end(self, generation: Generation) -> bytes: ...


@dataclass(frozen=True, slots=True)
class GenerationJob:
    """A parsed request: its media, how its prompt is prepared from them (in a worker thread), sampled, and answered.

    `rules` say how the text is made of tokens. `spool` holds what `media` were sent as; it is emptied once they are
    decoded. `constraint` is what the answer's text must be, `cache_salt` the client's own: only requests with the same
    one use each other's cached prompts. `adapter` is the LoRA adapter that is applied, by its name. Each prompt gets
    `answers`, of which the likeliest `kept` are told. `done` is what streams of its API end with, and `failed` makes
    the events of an error in one, where these are the API's own.
    """

    prepare: Callable[[Engine, list[Decoded]], Prepared | list[Prepared]]
    sampling: Callable[[Engine, Prepared], Sampling]
    stops: Sequence[str]
    stream: bool
    format: Format | ChoicesFormat
    ignored: list[str]
    media: Sequence[Encoded] = ()
    spool: Spool | None = None
    rules: AnswerRules = PLAIN
    answers: int = 1
    kept: int | None = None
    constraint: Constraint | None = None
    cache_salt: str = ""
    adapter: str = ""
    done: bytes = DONE
    failed: Callable[[ApiError, str], bytes] | None = None


def _check_generates(pod: ModelPod, engine: Engine) -> None:
    """ApiError for a model that makes no text."""
    if engine.capabilities.features & {"embeddings", "rerank"}:
        raise ApiError(
            "invalid_parameter",
            f"{pod.settings.name} makes no text; use /v1/embeddings or /v1/rerank.",
            param="model",
        )


async def answer(request: web.Request, job: GenerationJob) -> web.StreamResponse:
    """Run the request. Errors before the first byte are raised, later ones travel in the stream."""
    pod = request.app[POD]
    headers = {HEADER_MODEL: pod.settings.name, HEADER_ANSWER_VERSION: pod.answer_version}
    if job.ignored:
        headers[HEADER_IGNORED_FIELDS] = named(job.ignored)
    stream = EventStream(request, headers, job.done)
    meter = request[METER] = pod.meter(request)
    try:
        async with pod.admit(meter) as engine, AsyncExitStack() as memory:
            _check_generates(pod, engine)
            memory.enter_context(refusals_as_api_errors())
            if not job.media and _is_small(request):
                prepared, release = _listed(job.prepare(engine, [])), lambda: None
                meter.waits.note("preparing", time.monotonic())
            else:
                reading = _prepare(pod, engine, job, memory, headers, meter)
                prepared, release = await (patiently(stream, reading, b": preparing\n\n") if job.stream else reading)
            constraint = None
            if job.constraint is not None:
                preparing = pod.constraint_pool.run(engine.prepare_constraint, job.constraint, share=meter.share)
                constraint = await (patiently(stream, preparing, b": preparing\n\n") if job.stream else preparing)
            generations = _generations(pod, engine, job, prepared, constraint, release, meter)
            del prepared  # the engine drops it when it no longer needs it
            async with Choices(generations) as choices:
                if job.stream:
                    return await _stream(stream, job, choices)
                return await _whole(job, choices, headers)
    except ApiError as error:
        if stream.response is None:
            raise
        events = job.failed(error, request[REQUEST_ID]) if job.failed is not None else b""
        return await stream.fail(error, request[REQUEST_ID], events)


def _is_small(request: web.Request) -> bool:
    """Whether its body is; a packed one may hold anything."""
    size = request.content_length
    return size is not None and size < _SMALL_BYTES and "Content-Encoding" not in request.headers


async def _prepare(
    pod: ModelPod,
    engine: Engine,
    job: GenerationJob,
    memory: AsyncExitStack,
    headers: dict[str, str],
    meter: RequestMeter,
) -> tuple[list[Prepared], Callable[[], None]]:
    """The prompts, and what to call once the engine has read it: until then its media hold memory.

    Into `headers` goes the size of each image as the model sees it: answers may tell places in its pixels.
    """
    waits = meter.waits
    if not job.media:
        prepared = await pod.text_pool.run(job.prepare, engine, [], share=meter.share, waits=waits)
        waits.note("preparing", time.monotonic())
        return _listed(prepared), lambda: None
    media, share = await memory.enter_async_context(
        pod.intake.decoded(job.media, pod.decode_options(engine.capabilities), meter.share, waits)
    )
    waits.note("media", time.monotonic())
    if job.spool is not None:
        job.spool.close()
    if images := [item for item in flat(media) if isinstance(item, Image) and item.fitted]:
        headers[HEADER_IMAGE_SIZE] = ", ".join(f"{item.pixels.shape[1]}x{item.pixels.shape[0]}" for item in images)
    prepared = await pod.media_pool.run(job.prepare, engine, media, share=meter.share, waits=waits)
    waits.note("preparing", time.monotonic())
    media.clear()
    return _listed(prepared), lambda: share.shrink(0)


def _listed(prepared: Prepared | list[Prepared]) -> list[Prepared]:
    return prepared if isinstance(prepared, list) else [prepared]


def _generations(
    pod: ModelPod,
    engine: Engine,
    job: GenerationJob,
    prompts: Sequence[Prepared],
    constraint: Any,
    release: Callable[[], None],
    meter: RequestMeter,
) -> list[Generation]:
    """One for each answer; those to the same prompt have seeds of their own."""
    on_start = after(len(prompts) * job.answers, release)
    made = []
    for prepared in prompts:
        sampling = replace(job.sampling(engine, prepared), constraint=constraint, adapter=job.adapter)
        for number in range(job.answers):
            seed = None if sampling.seed is None else (sampling.seed + number + _HALF) % (2 * _HALF) - _HALF
            made.append(
                Generation(
                    engine, prepared, replace(sampling, seed=seed), job.stops, pod.metrics, on_start,
                    rules=job.rules, meter=meter, counts_prompt=number == 0, cache_salt=job.cache_salt,
                )
            )  # fmt: skip
    return made


async def _whole(job: GenerationJob, choices: Choices, headers: dict[str, str]) -> web.Response:
    answers = await choices.whole()
    headers[HEADER_QUEUE_SECONDS] = f"{choices.generations[0].queue_seconds:.3f}"
    if job.kept is not None:
        answers = likeliest(answers, job.answers, job.kept)
    form = job.format
    body = (form if isinstance(form, ChoicesFormat) else _Single(form)).whole_of(answers, choices.generations)
    if isinstance(body, str):
        return web.Response(text=body, headers=headers)
    return web.Response(body=msgspec.json.encode(body), content_type="application/json", headers=headers)


async def _stream(stream: EventStream, job: GenerationJob, choices: Choices) -> web.StreamResponse:
    form = job.format if isinstance(job.format, ChoicesFormat) else _Single(job.format)
    generations = choices.generations
    async with aclosing(choices.pieces()) as pieces:
        index, delta = await patiently(stream, anext(pieces), b": queued\n\n")
        await stream.write(form.begin_all(generations) + _written(form, index, delta, generations[index]))
        async for index, delta in pieces:
            await stream.write(_written(form, index, delta, generations[index]))
    await stream.write(form.end_all(generations))
    return await stream.end()


def _written(form: ChoicesFormat, index: int, delta: Delta | None, generation: Generation) -> bytes:
    return form.end_of(index, generation) if delta is None else form.piece_of(index, delta, generation)


class _Single(ChoicesFormat):
    """The format of an API that has one answer."""

    def __init__(self, form: Format) -> None:
        self._form = form

    def whole_of(
        self, answers: Sequence[tuple[Delta, Generation]], generations: Sequence[Generation]
    ) -> msgspec.Struct | str:
        return self._form.whole(*answers[0])

    def begin_all(self, generations: Sequence[Generation]) -> bytes:
        return self._form.begin(generations[0])

    def piece_of(self, index: int, delta: Delta, generation: Generation) -> bytes:
        return self._form.piece(delta)

    def end_of(self, index: int, generation: Generation) -> bytes:
        return self._form.end(generation)

    def end_all(self, generations: Sequence[Generation]) -> bytes:
        return b""


async def patiently(stream: EventStream, work: Awaitable[T], comment: bytes) -> T:
    """The result; if it takes long, the stream begins with a comment meanwhile."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait([task], timeout=_SILENCE_SECONDS)
        if not task.done():
            await stream.write(comment)
        return await task
    finally:
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
