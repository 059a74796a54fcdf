"""A transcription in the works: the windows of one recording through the model, a few at a time, answered in order."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

import msgspec
from aiohttp import web
from ams_common.errors import ApiError
from ams_common.names import (
    HEADER_FINISH_REASON,
    HEADER_IGNORED_FIELDS,
    HEADER_MODEL,
    HEADER_QUEUE_SECONDS,
)
from ams_common.printable import printable
from ams_common.wire import FinishReason, Usage

from ams_pod.engines.port import Degraded, Engine, Prepared, Sampling
from ams_pod.media.decoding import Encoded
from ams_pod.media.items import Audio
from ams_pod.media.spool import Spool
from ams_pod.media.windows import windows
from ams_pod.serve.answering import patiently
from ams_pod.serve.events import EventStream
from ams_pod.serve.generation import Generation
from ams_pod.serve.keys import METER, POD, REQUEST_ID
from ams_pod.serve.pod import ModelPod
from ams_pod.serve.refusals import refusals_as_api_errors
from ams_pod.serve.request_meter import RequestMeter
from ams_pod.serve.transcripts import Segment

_SHARE = 4  # of the requests that run at once, what one recording may take


@dataclass(slots=True)
class Outcome:
    """What the windows so far came to."""

    seconds: float = 0.0
    segments: list[Segment] = field(default_factory=list)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finish_reason: FinishReason = "stop"
    degraded: Degraded | None = None
    queue_seconds: float = 0.0

    @property
    def usage(self) -> Usage:
        return Usage(self.prompt_tokens, self.completion_tokens, self.prompt_tokens + self.completion_tokens)

    def add(self, segment: Segment, generation: Generation) -> None:
        self.segments.append(segment)
        self.prompt_tokens += generation.usage.prompt_tokens
        self.completion_tokens += generation.usage.completion_tokens
        self.degraded = self.degraded or generation.degraded
        if generation.finish_reason == "length":
            self.finish_reason = "length"
        if len(self.segments) == 1:
            self.queue_seconds = generation.queue_seconds


class TranscriptFormat(Protocol):
    """How an answer is written: whole, or as events."""

    content_type: str

    def whole(self, outcome: Outcome) -> msgspec.Struct | str: ...
    def piece(self, text: str) -> bytes: ...
    def next_window(self) -> None: ...
    def end(self, outcome: Outcome) -> bytes: ...


@dataclass(frozen=True, slots=True)
class TranscriptionJob:
    """A parsed request; `prepare` makes the prompt of one window in a worker thread."""

    file: Encoded
    spool: Spool
    prepare: Callable[[Engine, Audio], Prepared]
    sampling: Callable[[Engine, Prepared, float], Sampling]
    format: TranscriptFormat
    stream: bool
    ignored: Sequence[str]


async def transcribe(request: web.Request, job: TranscriptionJob) -> web.StreamResponse:
    """Run the request. Errors before the first byte are raised, later ones travel in the stream."""
    pod = request.app[POD]
    headers = {HEADER_MODEL: pod.settings.name}
    if job.ignored:
        headers[HEADER_IGNORED_FIELDS] = printable(", ".join(job.ignored))
    stream = EventStream(request, headers)
    meter = request[METER] = pod.meter(request)
    try:
        async with pod.admit(meter) as engine, AsyncExitStack() as memory:
            memory.enter_context(refusals_as_api_errors())
            decoding = _decoded(pod, engine, job, memory, meter)
            audio = await (patiently(stream, decoding, b": preparing\n\n") if job.stream else decoding)
            outcome = Outcome(audio.seconds)
            async with _texts(pod, engine, job, audio, outcome, meter) as texts:
                if job.stream:
                    return await _stream(stream, job, texts, outcome)
                async for _ in texts:
                    pass
            return _whole(job, outcome, headers)
    except ApiError as error:
        if stream.response is None:
            raise
        return await stream.fail(error, request[REQUEST_ID])


async def _decoded(
    pod: ModelPod, engine: Engine, job: TranscriptionJob, memory: AsyncExitStack, meter: RequestMeter
) -> Audio:
    options = pod.decode_options(engine.capabilities)
    media, _ = await memory.enter_async_context(pod.intake.decoded([job.file], options, meter.share, meter.waits))
    meter.waits.note("media", time.monotonic())
    job.spool.close()
    audio = media[0]
    assert isinstance(audio, Audio)  # that is what the file was received as
    return audio


def _whole(job: TranscriptionJob, outcome: Outcome, headers: dict[str, str]) -> web.Response:
    headers[HEADER_QUEUE_SECONDS] = f"{outcome.queue_seconds:.3f}"
    headers[HEADER_FINISH_REASON] = outcome.finish_reason
    body = job.format.whole(outcome)
    data = body.encode() if isinstance(body, str) else msgspec.json.encode(body)
    return web.Response(body=data, content_type=job.format.content_type, charset="utf-8", headers=headers)


async def _stream(
    stream: EventStream, job: TranscriptionJob, texts: AsyncIterator[str | None], outcome: Outcome
) -> web.StreamResponse:
    first = await patiently(stream, anext(texts, None), b": queued\n\n")
    await stream.write(job.format.piece(first or ""))
    async for text in texts:
        if text is None:
            job.format.next_window()
        elif data := job.format.piece(text):
            await stream.write(data)
    await stream.write(job.format.end(outcome))
    return await stream.end()


@asynccontextmanager
async def _texts(
    pod: ModelPod, engine: Engine, job: TranscriptionJob, audio: Audio, outcome: Outcome, meter: RequestMeter
) -> AsyncIterator[AsyncIterator[str | None]]:
    """Text as it is said, in order, None between two windows; `outcome` fills up meanwhile.

    Leaving the context cancels what still runs.
    """
    loop = asyncio.get_running_loop()
    spans = await pod.media_pool.run(windows, audio.samples, audio.rate, share=meter.share)
    at_once = max(1, engine.info.concurrent_requests // _SHARE)
    running: list[_Window] = []

    def start_up_to(count: int) -> None:
        for start, end in spans[len(running) : count]:
            window = _Window(Audio(audio.samples[start:end], audio.rate), start / audio.rate)
            window.task = loop.create_task(window.run(pod, engine, job, meter))
            running.append(window)

    async def read() -> AsyncIterator[str | None]:
        for number in range(len(spans)):
            start_up_to(number + at_once)
            if number:
                yield None
            async for text in running[number].texts():
                yield text
            outcome.add(*running[number].result())

    try:
        yield read()
    finally:
        tasks = [window.task for window in running if window.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Window:
    """One window on its way through the model."""

    def __init__(self, audio: Audio, start: float) -> None:
        self.task: asyncio.Task[Generation] | None = None
        self._audio, self._start = audio, start
        self._texts: asyncio.Queue[str | None] = asyncio.Queue()
        self._said = ""

    async def run(self, pod: ModelPod, engine: Engine, job: TranscriptionJob, meter: RequestMeter) -> Generation:
        try:
            with refusals_as_api_errors():
                prepared = await pod.media_pool.run(job.prepare, engine, self._audio, share=meter.share)
                sampling = job.sampling(engine, prepared, self._audio.seconds)
                async with Generation(engine, prepared, sampling, [], pod.metrics, meter=meter) as generation:
                    del prepared  # the engine drops it when it no longer needs it
                    while (delta := await generation.next()) is not None:
                        self._said += delta.content
                        self._texts.put_nowait(delta.content)
                return generation
        finally:
            self._texts.put_nowait(None)

    async def texts(self) -> AsyncIterator[str]:
        """What is said, as it comes. ApiError if the model failed."""
        while (text := await self._texts.get()) is not None:
            yield text
        if self.task is not None:
            await self.task

    def result(self) -> tuple[Segment, Generation]:
        assert self.task is not None  # it ran
        return Segment(self._start, self._start + self._audio.seconds, self._said), self.task.result()
