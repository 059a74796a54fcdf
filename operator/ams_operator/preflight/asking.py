"""Asks the hub once for each source, in the background, and keeps the answers."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ams_common.resource.spec import ModelDeployment
from ams_common.source import HubSource

from ams_operator.preflight.answer import Answer
from ams_operator.preflight.hub import Hub

_AT_ONCE = 8
_REFUSED_SECONDS = 300.0  # a model may appear, or be opened
_UNREACHABLE_SECONDS = 30.0
_LONGEST_UNREACHABLE_SECONDS = 900.0

_Key = tuple[HubSource, bool]


@dataclass
class _Entry:
    answer: Answer | None = None
    again_at: float | None = 0.0  # monotonic; None: never
    failures: int = 0
    waiting: set[str] = field(default_factory=set)
    task: asyncio.Task[None] | None = None


class Preflight:
    """`answered` is called with the key of each resource that waited for an answer."""

    def __init__(self, hub: Hub, answered: Callable[[str], None]) -> None:
        self._hub = hub
        self._answered = answered
        self._entries: dict[_Key, _Entry] = {}
        self._slots = asyncio.Semaphore(_AT_ONCE)

    def look(self, key: str, source: HubSource, *, token: bool) -> tuple[Answer | None, bool, float | None]:
        """(what is known, whether the first answer is still awaited, in how many seconds to look again)."""
        entry = self._entries.setdefault((source, token), _Entry())
        now = time.monotonic()
        if entry.task is None and entry.again_at is not None and now >= entry.again_at:
            entry.task = asyncio.create_task(self._ask((source, token), entry))
        if entry.task is not None:
            entry.waiting.add(key)
        again = entry.again_at - now if entry.again_at is not None and entry.task is None else None
        return entry.answer, entry.answer is None, again

    def keep(self, sources: set[_Key]) -> None:
        """Forget what no resource names any more."""
        for key in [key for key, entry in self._entries.items() if key not in sources and entry.task is None]:
            del self._entries[key]

    async def close(self) -> None:
        tasks = [entry.task for entry in self._entries.values() if entry.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, key: _Key, entry: _Entry) -> None:
        source, token = key
        try:
            async with self._slots:
                answer = await self._hub.ask(source, token=token)
        finally:
            entry.task = None
        if not answer.reached:
            wait = min(_UNREACHABLE_SECONDS * 2.0**entry.failures, _LONGEST_UNREACHABLE_SECONDS)
            entry.failures, entry.again_at = entry.failures + 1, time.monotonic() + wait
        else:
            entry.failures = 0
            entry.again_at = time.monotonic() + _REFUSED_SECONDS if answer.refusal is not None else None
        if answer.reached or entry.answer is None or not entry.answer.reached:
            entry.answer = answer  # an unreachable hub takes back nothing that it said
        waiting, entry.waiting = entry.waiting, set()
        for each in waiting:
            self._answered(each)


def has_token(resource: ModelDeployment) -> bool:
    """Whether the pods are given a hub token, which the operator never sees."""
    return resource.spec.model.token_secret_ref is not None or any(
        variable.name == "HF_TOKEN" for variable in resource.spec.env
    )
