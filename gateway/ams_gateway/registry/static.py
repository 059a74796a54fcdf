"""A fixed list of pods, each polled at /ready: for compose files, benchmarks, and pods that something else runs."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Final

from ams_common.errors import ApiError
from ams_common.lifecycle import Phase
from ams_common.names import resource_name
from ams_common.progress import Progress

from ams_gateway.broadcast import Broadcast
from ams_gateway.proxy.pod_client import PodClient, PodUnavailable
from ams_gateway.proxy.upstream import Pool
from ams_gateway.registry.port import Backend, Model

_POLL_SECONDS = 1.0
_PENDING = Progress(phase=Phase.PENDING)
_READY = Progress(phase=Phase.READY)


class InvalidBackend(ValueError):
    """A `name=address` that can't be used; the message is one sentence."""


def parse_backends(items: Iterable[str]) -> dict[str, list[str]]:
    """Addresses by model name of `name=http://host:port` items; a name given twice has two pods."""
    addresses: dict[str, list[str]] = {}
    for item in items:
        name, _, address = item.strip().partition("=")
        if not name or not address:
            raise InvalidBackend(f"{item!r} is not a backend: expected name=http://host:port or name=unix:///path")
        try:
            Pool(address)
        except ValueError as error:
            raise InvalidBackend(f"{item!r}: {error}") from None
        addresses.setdefault(resource_name(name), []).append(address)
    return addresses


class StaticRegistry:
    """Registry over addresses by model name. An async context manager: it polls while the block runs."""

    where: Final = "static"
    controls: Final = None

    def __init__(self, addresses: Mapping[str, Sequence[str]]) -> None:
        now = int(time.time())
        self._models = {name: Model(name=name, created=now) for name in sorted(addresses)}
        self._pods = {
            name: [_Pod(Backend(id=f"{name}-{number}", address=address)) for number, address in enumerate(urls)]
            for name, urls in addresses.items()
        }
        self._ready: dict[str, list[Backend]] = {name: [] for name in addresses}
        self._changed = Broadcast()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "StaticRegistry":
        self._tasks = [asyncio.create_task(self._watch(name, pod)) for name, pods in self._pods.items() for pod in pods]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for pods in self._pods.values():
            for pod in pods:
                pod.pool.close_idle(0)

    def models(self) -> Sequence[Model]:
        return list(self._models.values())

    def find(self, name: str) -> Model | None:
        return self._models.get(resource_name(name))

    def backends(self, model: Model) -> Sequence[Backend]:
        return self._ready[model.name]

    def progress(self, model: Model) -> Progress:
        if self._ready[model.name]:
            return _READY
        known = [pod.progress for pod in self._pods[model.name] if pod.progress.phase != Phase.PENDING]
        return max(known, key=lambda progress: progress.percent or 0.0, default=_PENDING)

    async def wait_ready(self, model: Model) -> AsyncIterator[Progress]:
        while not self._ready[model.name]:
            version, progress = self._changed.version, self.progress(model)
            if progress.failure is not None and not progress.failure.retryable:
                raise ApiError("model_failed", progress.failure.message, reason=progress.failure.reason)
            yield progress
            await self._changed.changed_since(version)

    def unreachable(self, model: Model, backend: Backend) -> None:
        for pod in self._pods[model.name]:
            if pod.backend is backend:
                self._note(model.name, pod, _PENDING)
                pod.check_now.set()

    async def _watch(self, name: str, pod: "_Pod") -> None:
        while True:
            pod.check_now.clear()
            self._note(name, pod, await pod.check())
            with suppress(TimeoutError):
                async with asyncio.timeout(_POLL_SECONDS):
                    await pod.check_now.wait()

    def _note(self, name: str, pod: "_Pod", progress: Progress) -> None:
        if progress == pod.progress:
            return
        if progress.phase == Phase.READY:
            pod.backend.failures, pod.backend.ejected_until = 0, 0.0
        pod.progress = progress
        self._ready[name] = [pod.backend for pod in self._pods[name] if pod.progress.phase == Phase.READY]
        self._changed.notify()


class _Pod:
    """One address, and how far its pod was when it was last asked."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.pool = Pool(backend.address)
        self.progress = _PENDING
        self.check_now = asyncio.Event()
        self._client = PodClient(self.pool)

    async def check(self) -> Progress:
        try:
            return await self._client.progress()
        except PodUnavailable:
            return _PENDING
