"""Asks pods that serve what became of their adapters, where they load them while they run; passes on what changed."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

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
from ams_operator.watch.cache import Cache

_EVERY_SECONDS = 5.0
_SETTLED_SECONDS = 60.0  # of a pod that has all of them: it may lose one, as where its engine is started again
_ANSWER_SECONDS = 2.0
_AT_ONCE = 64
_LARGEST_BYTES = 256 << 10
_LONGEST_WORD = 100

log = logging.getLogger(__name__)


class _Answer(msgspec.Struct):
    """What is read of `GET /admin/model_status` of a pod."""

    adapters: list[PodAdapter] | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """A pod of the model `key`, and its adapters: `asked_digest` by name."""

    key: str
    pod: Pod
    wanted: Mapping[str, str]


def targets(cache: Cache) -> list[Target]:
    """The pods that serve, of all models whose adapters come and go."""
    found = []
    for resource in cache.resources():
        if not _is_dynamic(resource):
            continue
        key, wanted = resource.metadata.key, {each.name: asked_digest(each) for each in pod_adapters(resource)}
        for pod in cache.get(key).own_pods():
            ready = pod.condition("Ready")
            if ready is not None and ready.status == "True" and pod.address:
                found.append(Target(key, pod, wanted))
    return found


def _is_dynamic(resource: ModelDeployment) -> bool:
    status = resource.status
    if not resource.spec.adapters or status is None or status.engine is None:
        return False
    row = next((row for name, row in ROWS.items() if name == status.engine.name), None)
    return has_dynamic_adapters(resource, row)


def settled(wanted: Mapping[str, str], told: Sequence[PodAdapter] | None) -> bool:
    """Whether a pod has all that it should, and nothing is to be heard of it for a while."""
    if told is None:
        return False
    return {each.name: each.asked for each in told if each.state == "ready"} == wanted and len(told) == len(wanted)


def believable(told: Sequence[PodAdapter] | None) -> tuple[PodAdapter, ...]:
    """With texts that are fit to be shown, and no more than there may be."""
    return tuple(
        msgspec.structs.replace(
            each,
            name=plain_text(each.name, _LONGEST_WORD),
            state=plain_text(each.state, _LONGEST_WORD),
            reason=plain_text(each.reason, _LONGEST_WORD),
            message=plain_text(each.message),
            asked=plain_text(each.asked, _LONGEST_WORD),
            sha256=plain_text(each.sha256, _LONGEST_WORD),
        )
        for each in (told or ())[: 2 * MOST_ADAPTERS]
    )


class AdapterPoller:
    """`of` is what each pod said last, by its uid; `changed` gets the key of a model of whose pods one says more."""

    def __init__(
        self, session: aiohttp.ClientSession, of_all: Callable[[], Iterable[Target]], changed: Callable[[str], None]
    ) -> None:
        self.of: dict[str, tuple[PodAdapter, ...]] = {}
        self._session, self._targets, self._changed = session, of_all, changed
        self._asked_at: dict[str, float] = {}
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
        self._asked_at = {uid: at for uid, at in self._asked_at.items() if uid in found}
        due = [each for uid, each in found.items() if self._is_due(uid, each, now)]
        await asyncio.gather(*(self._ask(each, now) for each in due))

    def _is_due(self, uid: str, target: Target, now: float) -> bool:
        return not settled(target.wanted, self.of.get(uid)) or now - self._asked_at.get(uid, 0.0) >= _SETTLED_SECONDS

    async def _ask(self, target: Target, now: float) -> None:
        uid, url = target.pod.metadata.uid, f"http://{target.pod.address}:{SERVE_PORT}/admin/model_status"
        try:
            async with self._slots, asyncio.timeout(_ANSWER_SECONDS):
                answer = await get_json(self._session, url, _Answer, most_bytes=_LARGEST_BYTES)
            told = believable(answer.adapters)
        except (aiohttp.ClientError, OSError, TimeoutError, InvalidJson):
            return  # it ends, or is of another version
        except Exception:  # a pod is somebody else's: whatever it does, the others are asked on
            log.warning("what pod %s says of its adapters is ignored", target.pod.metadata.key, exc_info=True)
            return
        self._asked_at[uid] = now
        if told != self.of.get(uid):
            self.of[uid] = told
            self._changed(target.key)
