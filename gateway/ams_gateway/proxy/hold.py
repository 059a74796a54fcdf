"""Requests for a model that isn't ready: they wait here, bounded in number and time, and streams see progress."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from aiohttp import web
from ams_common.errors import ApiError
from ams_common.names import HEADER_MODEL, HEADER_REQUEST_ID
from ams_common.progress import Progress

from ams_gateway.front.call import Call
from ams_gateway.front.responses import SERVER
from ams_gateway.registry.port import Model, Registry

_SILENCE_BEFORE_PROGRESS_SECONDS = 0.8  # ready within it: the pod's own status line goes out
_STEP_SECONDS = 0.5
_PAUSE_SECONDS = 0.05
_REPEAT_SECONDS = 5.0  # an unchanged progress is told again, so that nobody takes the connection for dead
_RETRY_AFTER_SECONDS = 10.0


class Holds:
    """Counts the requests that wait for each model; `began` hears of each."""

    def __init__(
        self, registry: Registry, seconds: float, limit: int, began: Callable[[str], None] = lambda model: None
    ) -> None:
        self._registry = registry
        self._seconds = seconds
        self._limit = limit
        self._began = began
        self.held: Counter[str] = Counter()

    async def until_ready(self, call: Call, model: Model, wants_stream: Callable[[], bool]) -> None:
        """Wait until a pod is ready for `model`; a request that wants a stream gets progress meanwhile.

        Raises ApiError: `queue_full`, `model_loading` when a plain request waited `hold_seconds` in all, and what the
        registry raises when the model won't get ready.
        """
        if self.held[model.name] >= self._limit:
            raise ApiError(
                "queue_full",
                f"{self._limit} requests already wait for {model.name} to get ready.",
                retry_after=retry_after(self._registry.progress(model)),
                limit=self._limit,
            )
        streaming = wants_stream()
        started = time.perf_counter()
        self.held[model.name] += 1
        self._began(model.name)
        try:
            async with _following(self._registry.wait_ready(model)) as ready:
                if streaming:
                    await self._tell_progress(call, model, ready)
                else:
                    left = self._seconds - (call.record.held_seconds or 0.0)
                    await asyncio.wait((ready,), timeout=max(left, 0.0))
                    if not ready.done():
                        raise loading(model, self._registry.progress(model))
                ready.result()
            if not self._registry.backends(model):  # ready and gone again at once: don't ask in a tight circle
                await asyncio.sleep(_PAUSE_SECONDS)
        finally:
            self.held[model.name] -= 1
            if not self.held[model.name]:
                del self.held[model.name]
            call.record.held_seconds = (call.record.held_seconds or 0.0) + time.perf_counter() - started

    async def _tell_progress(self, call: Call, model: Model, ready: "asyncio.Task[None]") -> None:
        """Write progress to the client until `ready` is done. The first event sends the head, with status 200."""
        if call.stream is None:
            await asyncio.wait((ready,), timeout=_SILENCE_BEFORE_PROGRESS_SECONDS)
        told, told_at = b"", 0.0
        while not ready.done():
            event = progress_event(self._registry.progress(model), call.path)
            if event != told or time.monotonic() - told_at >= _REPEAT_SECONDS:
                if call.stream is None:
                    call.stream = await _open_stream(call, model)
                await call.stream.write(event)
                told, told_at = event, time.monotonic()
            await asyncio.wait((ready,), timeout=_STEP_SECONDS)


def progress_event(progress: Progress, path: str) -> bytes:
    """One step as a stream shows it: an event on /generate, on /v1 a comment that strict clients skip."""
    if path.startswith("/v1"):
        return f": {progress.comment()}\n\n".encode()
    told = _steps(progress) | ({"message": progress.message} if progress.message else {})
    return b"event: progress\ndata: " + msgspec.json.encode(told) + b"\n\n"


def loading(model: Model, progress: Progress) -> ApiError:
    said = f": {progress.message}" if progress.message else ""
    return ApiError(
        "model_loading",
        f"{model.name} is not ready yet ({progress.comment()}{said}). Ask again later, or stream to see progress.",
        retry_after=retry_after(progress),
        **_steps(progress),
    )


def retry_after(progress: Progress) -> float:
    """Seconds after which asking again makes sense: when this phase ends, as far as that is known."""
    return min(max(progress.eta_seconds or _RETRY_AFTER_SECONDS, 1.0), 600.0)


def _steps(progress: Progress) -> dict[str, Any]:
    steps: dict[str, Any] = {"phase": progress.phase}
    if progress.percent is not None:
        steps["percent"] = round(progress.percent, 1)
    if progress.eta_seconds is not None:
        steps["eta_seconds"] = round(progress.eta_seconds)
    return steps


async def _open_stream(call: Call, model: Model) -> web.StreamResponse:
    stream = web.StreamResponse(
        headers={
            "Content-Type": "text/event-stream; charset=utf-8",
            "Cache-Control": "no-cache",
            "X-Accel-Buffering": "no",
            "Server": SERVER,
            HEADER_MODEL: model.name,
            HEADER_REQUEST_ID: call.record.id,
        }
    )
    await stream.prepare(call.request)
    return stream


@asynccontextmanager
async def _following(progress: AsyncIterator[Progress]) -> AsyncIterator["asyncio.Task[None]"]:
    """A task that is done when `progress` ends. Leaving the block ends it, and with it the demand for the model."""

    async def follow() -> None:
        async for _ in progress:
            pass

    task = asyncio.create_task(follow())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
