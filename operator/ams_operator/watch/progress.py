"""Polls the progress of pods that aren't ready, every two seconds, and passes on what changed."""

import asyncio
import time
from collections.abc import Callable, Iterable

import aiohttp
import msgspec
from ams_common.progress import Progress
from ams_kube.objects import Pod

from ams_operator.decide.children.kinds import model_key
from ams_operator.decide.children.pod import DOWNLOAD, SERVE, SERVE_PORT
from ams_operator.metrics import Metrics

_EVERY_SECONDS = 2.0
_ANSWER_SECONDS = 1.5
_AT_ONCE = 64


class ProgressPoller:
    """`of` is each pod's last progress by its uid; `changed` gets the key of a model with new progress."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        download_port: int,
        pods: Callable[[], Iterable[Pod]],
        changed: Callable[[str], None],
        metrics: Metrics,
    ) -> None:
        self.of: dict[str, Progress] = {}
        self._session = session
        self._download_port = download_port
        self._pods = pods
        self._changed = changed
        self._metrics = metrics
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._wake = asyncio.Event()
        self._received: dict[str, int] = {}

    def look(self) -> None:
        """A pod changed, and may have progress to report."""
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled. Nothing runs while no pod is on its way to ready."""
        while True:
            began = time.monotonic()
            targets = {pod.metadata.uid: (pod, url) for pod in self._pods() if (url := self.address(pod)) is not None}
            for uid in self.of.keys() - targets.keys():
                del self.of[uid]
            self._received = {uid: count for uid, count in self._received.items() if uid in targets}
            if not targets:
                self._wake.clear()
                await self._wake.wait()
                continue
            await asyncio.gather(*(self._ask(pod, url) for pod, url in targets.values()))
            await asyncio.sleep(max(0.1, _EVERY_SECONDS - (time.monotonic() - began)))

    def address(self, pod: Pod) -> str | None:
        """Where a pod reports its progress; None if it has none."""
        if not pod.address or pod.metadata.deletion_timestamp is not None:
            return None
        for status in pod.status.init_container_statuses:
            if status.name == DOWNLOAD and status.state.running is not None:
                return f"http://{pod.address}:{self._download_port}/progress"
        for status in pod.status.container_statuses:
            if status.name == SERVE and status.state.running is not None and not status.ready:
                return f"http://{pod.address}:{SERVE_PORT}/ready"
        return None

    async def _ask(self, pod: Pod, url: str) -> None:
        uid = pod.metadata.uid
        try:
            async with self._slots, asyncio.timeout(_ANSWER_SECONDS), self._session.get(url) as response:
                progress = msgspec.json.decode(await response.content.read(1 << 16), type=Progress)
        except (aiohttp.ClientError, OSError, TimeoutError, msgspec.DecodeError):
            return  # the container starts or ends
        if progress.download is not None:
            received = progress.download.bytesDone
            self._metrics.downloaded(model_key(pod.metadata), received - self._received.get(uid, 0))
            self._received[uid] = received
        if self.of.get(uid) != progress:
            self.of[uid] = progress
            self._changed(model_key(pod.metadata))
