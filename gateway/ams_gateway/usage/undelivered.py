"""Usage that no gateway heard: pods are asked for it, and it is added to the ledger late.

A pod keeps what a request used whose end reached no gateway, and gives it away once, to whichever gateway asks first.
What a pod tells is believed only so far: a request can't have used more than its model could compute in the time that
it may take, and what isn't any known user's counts under one name for all such. A pod that lies within these bounds
can't be told from one that works.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Protocol, TypeAlias

from ams_common.undelivered import UndeliveredUsage, UndeliveredUsages

from ams_gateway.registry.port import Backend, Model
from ams_gateway.usage.plausible import plausible
from ams_gateway.usage.port import Entry, Outcome

logger = logging.getLogger("ams_gateway")

DIRECT = "_direct"  # who called a pod without a gateway
UNKNOWN = "_unknown"  # ids that no user of this gateway has
Ask: TypeAlias = Callable[[Backend], Awaitable[UndeliveredUsages | None]]
"""What `POST /internal/usage` of a pod answers; None if it doesn't."""

_EVERY_SECONDS = 10.0
_SOON_SECONDS = 1.0
_MOST_ROUNDS = 20  # of asking one pod for more
_MOST_AT_ONCE = 8  # pods that are asked at the same time


class Taker(Protocol):
    """Where usage goes: the ledger."""

    def add(self, entry: Entry) -> None: ...

    def name_of(self, key_id: str) -> str | None:
        """The name of a user who was here."""


class UndeliveredCollector:
    """Asks each ready pod every ten seconds, and soon after an answer of it was cut off.

    `names` are the names of the users that are configured, by id.
    """

    def __init__(
        self,
        pods: Callable[[], Iterable[tuple[Model, Backend]]],
        ask: Ask,
        ledger: Taker,
        names: Callable[[], Mapping[str, str]],
    ) -> None:
        self._pods = pods
        self._ask = ask
        self._ledger = ledger
        self._names = names
        self._cut: set[str] = set()  # ids of pods
        self._some_cut = asyncio.Event()
        self._asking: asyncio.Task[None] | None = None
        self._slots = asyncio.Semaphore(_MOST_AT_ONCE)

    async def start(self) -> None:
        self._asking = asyncio.create_task(self._go_on())

    async def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    def was_cut(self, pod: str) -> None:
        """An answer of the pod with this id ended before its usage was told."""
        self._cut.add(pod)
        self._some_cut.set()

    async def _go_on(self) -> None:
        loop = asyncio.get_running_loop()
        everybody_at = loop.time() + _EVERY_SECONDS
        while True:
            try:
                async with asyncio.timeout_at(everybody_at):
                    await self._some_cut.wait()
                    await asyncio.sleep(_SOON_SECONDS)
            except TimeoutError:
                everybody_at = loop.time() + _EVERY_SECONDS
                self._cut.clear()
                self._some_cut.clear()
                await self.collect(None)
                continue
            cut, self._cut = self._cut, set()
            self._some_cut.clear()
            await self.collect(cut)

    async def collect(self, ids: set[str] | None) -> None:
        """Ask these pods, or all."""
        pods = [(model, backend) for model, backend in self._pods() if ids is None or backend.id in ids]
        await asyncio.gather(*(self._collect_from(model, backend) for model, backend in pods))

    async def _collect_from(self, model: Model, backend: Backend) -> None:
        async with self._slots:
            for _ in range(_MOST_ROUNDS):
                try:
                    answer = await self._ask(backend)
                except Exception:
                    logger.exception("a pod of %s can't be asked what no gateway heard", model.name)
                    return
                if answer is None:
                    return
                for told in answer.usage:
                    self._take(model, told)
                if not answer.more:
                    return

    def _take(self, model: Model, told: UndeliveredUsage) -> None:
        key_id, name = self._user(told.key_id)
        usage = plausible(told.usage, model)
        self._ledger.add(
            Entry(key_id=key_id, key_name=name, model=model.name, outcome=Outcome.CUT, usage=usage, late=True)
        )

    def _user(self, key_id: str) -> tuple[str, str]:
        if not key_id:
            return "", DIRECT
        if (name := self._names().get(key_id) or self._ledger.name_of(key_id)) is not None:
            return key_id, name
        return UNKNOWN, UNKNOWN
