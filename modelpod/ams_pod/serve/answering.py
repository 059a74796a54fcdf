"""What all generating routes share: a place in the queue, media, the prompt, and the answer whole or streamed."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

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
from ams_pod.serve.events import EventStream
from ams_pod.serve.generation import Generation
from ams_pod.serve.keys import METER, POD, REQUEST_ID
from ams_pod.serve.pod import ModelPod
from ams_pod.serve.refusals import refusals_as_api_errors
from ams_pod.serve.request_meter import RequestMeter
from ams_pod.serve.thinking import Delta

T = TypeVar("T")

_SILENCE_SECONDS = 1.0  # a stream's first byte comes at least this soon, answer or not


class Format(Protocol):
    """How one API writes an answer."""

    def whole(self, delta: Delta, generation: Generation) -> msgspec.Struct | str: ...
    def begin(self) -> bytes: ...
    def piece(self, delta: Delta) -> bytes: ...
    def end(self, generation: Generation) -> bytes: ...


@dataclass(frozen=True, slots=True)
class GenerationJob:
    """A parsed request: its media, how its prompt is prepared from them (in a worker thread), sampled, and answered.

    `raw`: the answer goes on from a text, and is what the model wrote; reasoning isn't told apart.

    `spool` holds what `media` were sent as; it is emptied once they are decoded. `constraint` is what the answer's text
    must be, `cache_salt` the client's own: only requests with the same one use each other's cached prompts.
    """

    prepare: Callable[[Engine, list[Decoded]], Prepared]
    sampling: Callable[[Engine, Prepared], Sampling]
    stops: Sequence[str]
    stream: bool
    format: Format
    ignored: list[str]
    media: Sequence[Encoded] = ()
    spool: Spool | None = None
    raw: bool = False
    constraint: Constraint | None = None
    cache_salt: str = ""


async def answer(request: web.Request, job: GenerationJob) -> web.StreamResponse:
    """Run the request. Errors before the first byte are raised, later ones travel in the stream."""
    pod = request.app[POD]
    headers = {HEADER_MODEL: pod.settings.name, HEADER_ANSWER_VERSION: pod.answer_version}
    if job.ignored:
        headers[HEADER_IGNORED_FIELDS] = named(job.ignored)
    stream = EventStream(request, headers)
    meter = request[METER] = pod.meter(request)
    try:
        async with pod.admit(meter) as engine, AsyncExitStack() as memory:
            memory.enter_context(refusals_as_api_errors())
            reading = _prepare(pod, engine, job, memory, headers, meter)
            prepared, release = await (patiently(stream, reading, b": preparing\n\n") if job.stream else reading)
            sampling = job.sampling(engine, prepared)
            if job.constraint is not None:
                preparing = pod.constraint_pool.run(engine.prepare_constraint, job.constraint, share=meter.share)
                sampling = replace(sampling, constraint=await preparing)
            generating = Generation(
                engine, prepared, sampling, job.stops, pod.metrics, release, raw=job.raw, meter=meter,
                cache_salt=job.cache_salt,
            )  # fmt: skip
            async with generating as generation:
                del prepared  # the engine drops it when it no longer needs it
                if job.stream:
                    return await _stream(stream, job, generation)
                return await _whole(job, generation, headers)
    except ApiError as error:
        if stream.response is None:
            raise
        return await stream.fail(error, request[REQUEST_ID])


async def _prepare(
    pod: ModelPod,
    engine: Engine,
    job: GenerationJob,
    memory: AsyncExitStack,
    headers: dict[str, str],
    meter: RequestMeter,
) -> tuple[Prepared, Callable[[], None]]:
    """The prompt, and what to call once the engine has read it: until then its media hold memory.

    Into `headers` goes the size of each image as the model sees it: answers may tell places in its pixels.
    """
    waits = meter.waits
    if not job.media:
        prepared = await pod.text_pool.run(job.prepare, engine, [], share=meter.share, waits=waits)
        waits.note("preparing", time.monotonic())
        return prepared, lambda: None
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
    return prepared, lambda: share.shrink(0)


async def _whole(job: GenerationJob, generation: Generation, headers: dict[str, str]) -> web.Response:
    delta = await generation.whole()
    headers[HEADER_QUEUE_SECONDS] = f"{generation.queue_seconds:.3f}"
    body = job.format.whole(delta, generation)
    if isinstance(body, str):
        return web.Response(text=body, headers=headers)
    return web.Response(body=msgspec.json.encode(body), content_type="application/json", headers=headers)


async def _stream(stream: EventStream, job: GenerationJob, generation: Generation) -> web.StreamResponse:
    form = job.format
    delta = await patiently(stream, generation.next(), b": queued\n\n")
    await stream.write(form.begin() + (form.piece(delta) if delta is not None else b""))
    while delta is not None and (delta := await generation.next()) is not None:
        await stream.write(form.piece(delta))
    await stream.write(form.end(generation))
    return await stream.end()


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
