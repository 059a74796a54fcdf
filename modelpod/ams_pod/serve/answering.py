"""What all generating routes share: a place in the queue, the prompt, and the answer whole or streamed."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec
from aiohttp import web
from ams_common.errors import ApiError
from ams_common.names import HEADER_IGNORED_FIELDS, HEADER_MODEL, HEADER_QUEUE_SECONDS, HEADER_USAGE

from ams_pod.runtime.interface import Prepared, Runtime, Sampling
from ams_pod.serve.events import EventStream, usage_text
from ams_pod.serve.generation import Generation
from ams_pod.serve.keys import POD, REQUEST_ID
from ams_pod.serve.pod import Pod
from ams_pod.serve.thinking import Delta

_SILENCE_SECONDS = 1.0  # a stream's first byte comes at least this soon, answer or not


class Format(Protocol):
    """How one API writes an answer."""

    def whole(self, delta: Delta, generation: Generation) -> msgspec.Struct: ...
    def begin(self) -> bytes: ...
    def piece(self, delta: Delta) -> bytes: ...
    def end(self, generation: Generation) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Work:
    """A parsed request: how its prompt is prepared (in a worker thread), sampled, and answered."""

    prepare: Callable[[Runtime], Prepared]
    sampling: Callable[[Runtime, Prepared], Sampling]
    stops: Sequence[str]
    stream: bool
    format: Format
    ignored: Sequence[str]


async def answer(request: web.Request, work: Work) -> web.StreamResponse:
    """Run the request. Errors before the first byte are raised, later ones travel in the stream."""
    pod = request.app[POD]
    headers = {HEADER_MODEL: pod.settings.name}
    if work.ignored:
        headers[HEADER_IGNORED_FIELDS] = ", ".join(work.ignored)[:1000]
    stream = EventStream(request, headers)
    try:
        async with pod.admit() as runtime:
            prepared = await asyncio.get_running_loop().run_in_executor(pod.cpu_pool, work.prepare, runtime)
            sampling = work.sampling(runtime, prepared)
            async with Generation(runtime, prepared, sampling, work.stops, pod.metrics) as generation:
                if work.stream:
                    return await _stream(stream, work, generation)
                return await _whole(pod, work, generation, headers)
    except ApiError as error:
        if stream.response is None:
            raise
        return await stream.fail(error, request[REQUEST_ID])


async def _whole(pod: Pod, work: Work, generation: Generation, headers: dict[str, str]) -> web.Response:
    delta = await generation.whole()
    headers[HEADER_USAGE] = usage_text(generation.usage)
    headers[HEADER_QUEUE_SECONDS] = f"{generation.queue_seconds:.3f}"
    body = msgspec.json.encode(work.format.whole(delta, generation))
    return web.Response(body=body, content_type="application/json", headers=headers)


async def _stream(stream: EventStream, work: Work, generation: Generation) -> web.StreamResponse:
    form = work.format
    first = asyncio.ensure_future(generation.next())
    try:
        await asyncio.wait([first], timeout=_SILENCE_SECONDS)
        if not first.done():
            await stream.write(b": queued\n\n")
        delta = await first
    finally:
        first.cancel()
    await stream.write(form.begin() + (form.piece(delta) if delta is not None else b""))
    while delta is not None and (delta := await generation.next()) is not None:
        await stream.write(form.piece(delta))
    await stream.write(form.end(generation))
    return await stream.end(generation.usage)
