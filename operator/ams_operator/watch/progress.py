"""Polls the progress of pods that aren't ready, every two seconds, and passes on what changed."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable

import aiohttp
import msgspec
from ams_common.lifecycle import Phase
from ams_common.outside import InvalidJson
from ams_common.plain import plain_failure, plain_text
from ams_common.progress import Download, Progress, load_percent
from ams_kube.objects import Pod

from ams_operator.answers import get_json
from ams_operator.decide.children.containers import SERVE_PORT
from ams_operator.decide.children.kinds import model_key
from ams_operator.decide.children.pod import DOWNLOAD, SERVE
from ams_operator.metrics import Metrics

_EVERY_SECONDS = 2.0
_ANSWER_SECONDS = 1.5
_AT_ONCE = 64
_LARGEST_BYTES = 64 << 10
_STATUSES = (200, 503)  # of /progress, and of /ready while a model isn't
_LARGEST_COUNT = 1 << 60

log = logging.getLogger(__name__)


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
        self._distrusted: set[str] = set()

    def look(self) -> None:
        """A pod changed, and may have progress to report."""
        self._wake.set()

    def downloads(self) -> dict[str, Download]:
        """Of the models that are being downloaded, by key; of several pods the one that is furthest."""
        found: dict[str, Download] = {}
        for pod in self._pods():
            progress = self.of.get(pod.metadata.uid)
            if progress is None or progress.download is None or progress.phase is not Phase.DOWNLOADING:
                continue
            key = model_key(pod.metadata)
            if key not in found or found[key].bytesDone < progress.download.bytesDone:
                found[key] = progress.download
        return found

    async def run(self) -> None:
        """Until cancelled. Nothing runs while no pod is on its way to ready."""
        while True:
            began = time.monotonic()
            targets = {pod.metadata.uid: (pod, url) for pod in self._pods() if (url := self.address(pod)) is not None}
            for uid in self.of.keys() - targets.keys():
                del self.of[uid]
            self._distrusted &= targets.keys()
            self._received = {uid: count for uid, count in self._received.items() if uid in targets}
            if not targets:
                self._wake.clear()
                await self._wake.wait()
                continue
            await asyncio.gather(*(self._ask(pod, url) for pod, url in targets.values()))
            await asyncio.sleep(max(0.1, _EVERY_SECONDS - (time.monotonic() - began)))

    def _distrust(self, pod: Pod, why: str) -> None:
        """Say so once for each pod."""
        if pod.metadata.uid not in self._distrusted:
            self._distrusted.add(pod.metadata.uid)
            log.warning("the progress that pod %s answers is ignored: %s", pod.metadata.key, why)

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
            async with self._slots, asyncio.timeout(_ANSWER_SECONDS):
                answer = await get_json(self._session, url, Progress, most_bytes=_LARGEST_BYTES, statuses=_STATUSES)
            progress = believable(answer)
        except InvalidJson as error:
            self._distrust(pod, str(error))
            return
        except (aiohttp.ClientError, OSError, TimeoutError):
            return  # the container starts or ends
        except Exception as error:  # a pod is somebody else's: whatever it does, the others are asked on
            self._distrust(pod, repr(error))
            return
        if progress.download is not None:
            received = progress.download.bytesDone
            self._metrics.downloaded(model_key(pod.metadata), received - self._received.get(uid, 0))
            self._received[uid] = received
        if progress != (known := self.of.get(uid)) and not (known is not None and goes_back(known, progress)):
            self.of[uid] = progress
            self._changed(model_key(pod.metadata))


def goes_back(known: Progress, progress: Progress) -> bool:
    """Whether a load takes a step anew, as where memory didn't suffice: people are told again when it is further.

    A load that begins anew is another process.
    """
    before, after = load_percent(known), load_percent(progress)
    begins = progress.phase is Phase.IMPORTING
    return before is not None and after is not None and after < before and not begins


def believable(progress: Progress) -> Progress:
    """The progress with texts that are fit to be shown. InvalidJson where a number is none that a pod could have."""
    download, failure = progress.download, progress.failure
    numbers: list[float | None] = [progress.percent, progress.eta_seconds]
    if download is not None:
        numbers += [download.bytesDone, download.bytesTotal, download.bytesPerSecond, download.etaSeconds]
    if any(number is not None and not 0 <= number <= _LARGEST_COUNT for number in numbers):
        raise InvalidJson("has a number that is out of range")
    if download is not None and download.file is not None:
        download = msgspec.structs.replace(download, file=plain_text(download.file))
    if failure is not None:
        failure = plain_failure(failure)
    message = plain_text(progress.message)
    return msgspec.structs.replace(progress, message=message, download=download, failure=failure)
