"""Requests for a model that isn't ready: they wait here, bounded in number and time, and streams see progress."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
from aiohttp import web
from ams_common.errors import ApiError
from ams_common.names import HEADER_MODEL, HEADER_REQUEST_ID
from ams_common.progress import Progress
from ams_common.timeline import Facts
from ams_common.wire import ProgressEvent

from ams_gateway.demand import Demand
from ams_gateway.front.call import Call
from ams_gateway.front.responses import SERVER
from ams_gateway.metrics import GatewayMetrics
from ams_gateway.registry.port import Model, Registry

_SILENCE_BEFORE_PROGRESS_SECONDS = 0.8  # a pod that is ready within it answers with a status line of its own
_STEP_SECONDS = 0.5
_PAUSE_SECONDS = 0.05
_REPEAT_SECONDS = 5.0  # an unchanged progress is repeated, so that nobody takes the connection for dead
_RETRY_AFTER_SECONDS = 10.0
_BACKLOG_SECONDS = 30.0
_LONGEST_ETA_SECONDS = 1e6  # whatever a pod says, a client gets a number that it can read


class Holds:
    """Waits for models on behalf of requests: at most `limit` for each model, plain ones at most `seconds` long."""

    def __init__(
        self, registry: Registry, metrics: GatewayMetrics, demand: Demand, *, seconds: float, limit: int
    ) -> None:
        self._registry = registry
        self._metrics = metrics
        self._demand = demand
        self._seconds = seconds
        self._limit = limit
        self._came_back: dict[str, float] = {}  # model → monotonic time when requests that were held went on

    def may_wait_for_a_place(self, call: Call, model: Model) -> bool:
        """Whether a request may wait where the pod's queue is full.

        A pod that is ready again is asked by all that waited for it at once. They wait on, and so does who comes while
        they are answered; at any other time a full queue is told.
        """
        held = call.record.held_seconds or 0.0
        backlog = time.monotonic() - self._came_back.get(model.name, -math.inf) < _BACKLOG_SECONDS
        return held < self._seconds and (held > 0 or backlog)

    async def wait_for_a_place(self, call: Call, seconds: float) -> None:
        """It counts as held, as long as it may wait."""
        await asyncio.sleep(seconds)
        call.record.held_seconds = (call.record.held_seconds or 0.0) + seconds

    async def until_ready(self, call: Call, model: Model, wants_stream: Callable[[], bool]) -> None:
        """Wait until a pod is ready for `model`; a request that wants a stream gets progress meanwhile.

        Raises ApiError: `queue_full`, `model_loading` when a plain request waited `hold_seconds` in all, and what the
        registry raises when the model won't get ready.
        """
        numbers = self._metrics.of(model.name)
        if numbers.held >= self._limit:
            raise ApiError(
                "queue_full",
                f"{self._limit} requests are already waiting for {model.name} to get ready.",
                retry_after=retry_after(self._registry.progress(model)),
                limit=self._limit,
            )
        streaming = wants_stream()
        started = time.perf_counter()
        numbers.held += 1
        self._demand.hold_began(model.name)
        phases = _Phases(call, self._registry.progress(model))
        try:
            async with _following(self._registry.wait_ready(model), phases.take) as ready:
                if streaming:
                    await self._stream_progress(call, model, ready)
                else:
                    left = self._seconds - (call.record.held_seconds or 0.0)
                    await asyncio.wait((ready,), timeout=max(left, 0.0))
                    if not ready.done():
                        raise loading_error(model, self._registry.progress(model))
                ready.result()
            self._came_back[model.name] = time.monotonic()
            if not self._registry.backends(model):  # ready and gone again at once: don't ask in a tight circle
                await asyncio.sleep(_PAUSE_SECONDS)
        finally:
            numbers.held -= 1
            phases.end()
            call.record.held_seconds = (call.record.held_seconds or 0.0) + time.perf_counter() - started

    async def _stream_progress(self, call: Call, model: Model, ready: "asyncio.Task[None]") -> None:
        """Write progress to the client until `ready` is done. The first event sends the head, with status 200."""
        if call.stream is None:
            await asyncio.wait((ready,), timeout=_SILENCE_BEFORE_PROGRESS_SECONDS)
        last_event, last_sent = b"", 0.0
        while not ready.done():
            event = progress_event(self._registry.progress(model), call.path)
            if event != last_event or time.monotonic() - last_sent >= _REPEAT_SECONDS:
                if call.stream is None:
                    call.stream = await _open_stream(call, model)
                await call.stream.write(event)
                last_event, last_sent = event, time.monotonic()
            await asyncio.wait((ready,), timeout=_STEP_SECONDS)


def progress_event(progress: Progress, path: str) -> bytes:
    """One step as a stream shows it: an event on /generate, on /v1 a comment that strict clients skip."""
    if path.startswith("/v1"):
        return f": {progress.comment()}\n\n".encode()
    return b"event: progress\ndata: " + msgspec.json.encode(_visible(progress)) + b"\n\n"


def loading_error(model: Model, progress: Progress) -> ApiError:
    reason = f": {progress.message}" if progress.message else ""
    visible = _visible(progress)
    return ApiError(
        "model_loading",
        f"{model.name} is not ready yet ({progress.comment()}{reason}). Try again later, or stream to see progress.",
        retry_after=retry_after(progress),
        phase=visible.phase,
        **{name: value for name in ("percent", "eta_seconds") if (value := getattr(visible, name)) is not None},
    )


def retry_after(progress: Progress) -> float:
    """Seconds after which trying again makes sense: when this phase ends, as far as that is known."""
    return min(max(progress.eta_seconds or _RETRY_AFTER_SECONDS, 1.0), 600.0)


def _visible(progress: Progress) -> ProgressEvent:
    """A progress as clients see it: without the files and bytes behind it."""
    return ProgressEvent(
        phase=progress.phase,
        percent=None if progress.percent is None else round(progress.percent, 1),
        eta_seconds=None if progress.eta_seconds is None else round(min(progress.eta_seconds, _LONGEST_ETA_SECONDS)),
        message=progress.message or None,
    )


async def _open_stream(call: Call, model: Model) -> web.StreamResponse:
    stream = web.StreamResponse(
        headers={
            "Content-Type": "text/event-stream; charset=utf-8",
            "Cache-Control": "no-cache",
            "X-Accel-Buffering": "no",
            "Server": SERVER,
            HEADER_MODEL: model.name,
            HEADER_REQUEST_ID: call.record.id,
            **call.headers,
        }
    )
    await stream.prepare(call.request)
    return stream


class _Phases:
    """Notes for how long a request waited in which phase of its model."""

    def __init__(self, call: Call, progress: Progress) -> None:
        self._call, self._latest = call, progress
        call.doing = "hold"

    def take(self, progress: Progress) -> None:
        if progress.phase is not self._latest.phase:
            self._call.note("hold", "hold", _waited_for(self._latest))
        self._latest = progress

    def end(self) -> None:
        self._call.note("hold", "choose", _waited_for(self._latest))


def _waited_for(progress: Progress) -> Facts:
    facts: Facts = {"phase": progress.phase.value}
    if progress.message:
        facts["message"] = progress.message
    if progress.failure is not None:
        facts["reason"] = progress.failure.reason
    if (download := progress.download) is not None:
        facts["bytes_done"] = download.bytesDone
        if download.bytesTotal is not None:
            facts["bytes_total"] = download.bytesTotal
        if download.bytesPerSecond is not None:
            facts["bytes_per_second"] = download.bytesPerSecond
    return facts


@asynccontextmanager
async def _following(
    progress: AsyncIterator[Progress], take: Callable[[Progress], None]
) -> AsyncIterator["asyncio.Task[None]"]:
    """A task that is done when `progress` ends, of which `take` is given each.

    Leaving the block ends it, and with it the demand for the model.
    """

    async def follow() -> None:
        async for each in progress:
            take(each)

    task = asyncio.create_task(follow())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
