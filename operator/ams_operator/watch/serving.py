"""Asks pods that serve what they say of themselves: the engine's version, and what became of their adapters."""

import asyncio
import logging
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import aiohttp
import msgspec
from ams_common.adapters import MOST_ADAPTERS, asked_digest
from ams_common.admin import PodAdapter
from ams_common.engines.dynamic import has_dynamic_adapters
from ams_common.engines.table import ROWS
from ams_common.outside import InvalidJson
from ams_common.plain import plain_text
from ams_common.resource.spec import ModelDeployment
from ams_kube.objects import Pod

from ams_operator.answers import get_json
from ams_operator.decide.children.containers import SERVE_PORT
from ams_operator.decide.children.sources import pod_adapters
from ams_operator.decide.status.serving import ServingReport
from ams_operator.watch.cache import Cache

_EVERY_SECONDS = 5.0
_SETTLED_SECONDS = 60.0  # of a pod that has all its adapters: it may lose one, as where its engine is started again
_KNOWN_SECONDS = 600.0  # of a version: another one comes with another pod or start, both of which are seen
_ANSWER_SECONDS = 2.0
_AT_ONCE = 64
_LARGEST_BYTES = 256 << 10
_LONGEST_WORD = 100
_LONGEST_VERSION = 64

log = logging.getLogger(__name__)


class _Answer(msgspec.Struct):
    """What is read of `GET /admin/model_status` of a pod."""

    engine_name: str | None = None
    engine_version: str | None = None
    adapters: list[PodAdapter] | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """A pod of the model `key`. `wanted`: `asked_digest` of its adapters by name, None where none come and go."""

    key: str
    pod: Pod
    wanted: Mapping[str, str] | None = None

    @property
    def starts(self) -> int:
        """How often its containers were started again: an engine that was may be of another version."""
        return sum(each.restart_count for each in self.pod.status.container_statuses)


@dataclass(frozen=True, slots=True)
class Asked:
    """`at` which time a pod was asked last, after how many starts, and how often in vain since: without a version."""

    at: float
    starts: int
    in_vain: int = 0
    version_at: float = 0.0  # when the version that is known was told first


def targets(cache: Cache) -> list[Target]:
    """The pods that serve, of all models."""
    found = []
    for resource in cache.resources():
        key, wanted = resource.metadata.key, None
        for pod in cache.get(key).own_pods():
            ready = pod.condition("Ready")
            if ready is not None and ready.status == "True" and pod.address:
                if wanted is None and _is_dynamic(resource):
                    wanted = {each.name: asked_digest(each) for each in pod_adapters(resource)}
                found.append(Target(key, pod, wanted))
    return found


def _is_dynamic(resource: ModelDeployment) -> bool:
    status = resource.status
    if not resource.spec.adapters or status is None or status.engine is None:
        return False
    row = next((row for name, row in ROWS.items() if name == status.engine.name), None)
    return has_dynamic_adapters(resource, row)


def settled(wanted: Mapping[str, str], told: Sequence[PodAdapter]) -> bool:
    """Whether a pod has all that it should, and nothing is to be heard of it for a while."""
    return {each.name: each.asked for each in told if each.state == "ready"} == wanted and len(told) == len(wanted)


def is_due(target: Target, report: ServingReport | None, asked: Asked | None, now: float) -> bool:
    """Whether a pod is to be asked again, which said `report` when it was asked last."""
    if asked is None or asked.starts != target.starts:
        return True
    return now - asked.at >= _wait_seconds(target, report, asked)


def _wait_seconds(target: Target, report: ServingReport | None, asked: Asked) -> float:
    if target.wanted is not None:
        return _SETTLED_SECONDS if report is not None and settled(target.wanted, report.adapters) else 0.0
    # Pods that are seen at once, as by an operator that has just begun, aren't asked at once for ever.
    longest = _KNOWN_SECONDS * (0.75 + zlib.crc32(target.pod.metadata.uid.encode()) % 512 / 1024)
    if report is not None and report.engine_version:
        return longest
    return min(_EVERY_SECONDS * 2.0 ** min(asked.in_vain, 16), longest)  # it tells none, or can't be asked


def believable(answer: _Answer) -> ServingReport:
    """With texts that are fit to be shown, and no more than there may be."""
    return ServingReport(
        plain_text(answer.engine_name or "", _LONGEST_WORD),
        plain_text(answer.engine_version or "", _LONGEST_VERSION),
        tuple(
            msgspec.structs.replace(
                each,
                name=plain_text(each.name, _LONGEST_WORD),
                state=plain_text(each.state, _LONGEST_WORD),
                reason=plain_text(each.reason, _LONGEST_WORD),
                message=plain_text(each.message),
                asked=plain_text(each.asked, _LONGEST_WORD),
                sha256=plain_text(each.sha256, _LONGEST_WORD),
            )
            for each in (answer.adapters or ())[: 2 * MOST_ADAPTERS]
        ),
    )


def taken(
    target: Target, told: ServingReport | None, known: ServingReport | None, asked: Asked | None, now: float
) -> tuple[ServingReport | None, Asked]:
    """What counts as said by a pod that was asked `now`; `told` is None where it didn't answer.

    One that tells another version each time it is asked is believed once in `_KNOWN_SECONDS`, or after a start.
    """
    same_start = asked is not None and asked.starts == target.starts
    before = asked if same_start and asked is not None else Asked(now, target.starts)
    if told is None:
        return known, replace(before, at=now, in_vain=before.in_vain + 1)
    if same_start and known is not None and known.engine_version:
        lately = now - before.version_at < _KNOWN_SECONDS
        if lately or not told.engine_version:
            told = replace(told, engine=known.engine, engine_version=known.engine_version)
            return told, replace(before, at=now)
    in_vain = 0 if told.engine_version else before.in_vain + 1
    return told, Asked(now, target.starts, in_vain, now)


class ServingPoller:
    """`of` is what each pod said last, by its uid; `changed` gets the key of a model of whose pods one says more."""

    def __init__(
        self, session: aiohttp.ClientSession, of_all: Callable[[], Iterable[Target]], changed: Callable[[str], None]
    ) -> None:
        self.of: dict[str, ServingReport] = {}
        self._session, self._targets, self._changed = session, of_all, changed
        self._asked: dict[str, Asked] = {}
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self.look(time.monotonic())
            await asyncio.sleep(_EVERY_SECONDS)

    async def look(self, now: float) -> None:
        """Ask each pod once of which there may be news."""
        found = {each.pod.metadata.uid: each for each in self._targets()}
        for uid in self.of.keys() - found.keys():
            del self.of[uid]
        self._asked = {uid: asked for uid, asked in self._asked.items() if uid in found}
        due = [each for uid, each in found.items() if is_due(each, self.of.get(uid), self._asked.get(uid), now)]
        await asyncio.gather(*(self._ask(each, now) for each in due))

    async def _ask(self, target: Target, now: float) -> None:
        uid = target.pod.metadata.uid
        known = self.of.get(uid)
        report, self._asked[uid] = taken(target, await self._answer(target), known, self._asked.get(uid), now)
        if report is not None and report != known:
            self.of[uid] = report
            self._changed(target.key)

    async def _answer(self, target: Target) -> ServingReport | None:
        url = f"http://{target.pod.address}:{SERVE_PORT}/admin/model_status"
        try:
            async with self._slots, asyncio.timeout(_ANSWER_SECONDS):
                return believable(await get_json(self._session, url, _Answer, most_bytes=_LARGEST_BYTES))
        except (aiohttp.ClientError, OSError, TimeoutError, InvalidJson):
            return None  # it ends, or is of another version
        except Exception:  # a pod is somebody else's: whatever it does, the others are asked on
            log.warning("what pod %s says of itself is ignored", target.pod.metadata.key, exc_info=True)
            return None
