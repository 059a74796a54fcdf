"""Asks the hub once for each source, in the background, and keeps its reports."""

import asyncio
import random
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from ams_common.backoff import backoff_seconds
from ams_common.resource.spec import ModelDeployment
from ams_common.settings_from_spec import allows_pickle
from ams_common.source import HubSource, InvalidSource, parse_source

from ams_operator.act.hub import HubClient
from ams_operator.decide.preflight.report import HubReport, Question
from ams_operator.metrics import Metrics

_AT_ONCE = 8
_REFUSED_SECONDS = 300.0  # a model may appear, or be opened
_UNREACHABLE_SECONDS = 30.0
_LONGEST_UNREACHABLE_SECONDS = 900.0


@dataclass
class _Entry:
    report: HubReport | None = None
    again_at: float | None = 0.0  # monotonic; None: never
    failures: int = 0
    waiting: set[str] = field(default_factory=set)
    task: asyncio.Task[None] | None = None


@dataclass(frozen=True, slots=True)
class Preflight:
    """What is known of a resource's source now. `pending`: the first report isn't there yet.

    `again_in` is in how many seconds the hub wants to be asked again.
    """

    report: HubReport | None = None
    pending: bool = False
    again_in: float | None = None


class HubReports:
    """`changed` is called with the key of each resource that waited for a report."""

    def __init__(self, hub: HubClient, changed: Callable[[str], None], metrics: Metrics | None = None) -> None:
        self._hub = hub
        self._changed = changed
        self._metrics = metrics
        self._entries: dict[Question, _Entry] = {}
        self._slots = asyncio.Semaphore(_AT_ONCE)

    def get(self, key: str, question: Question) -> Preflight:
        """What is known; the hub is asked where that is nothing, or old."""
        entry = self._entries.setdefault(question, _Entry())
        now = time.monotonic()
        if entry.task is None and entry.again_at is not None and now >= entry.again_at:
            entry.task = asyncio.create_task(self._ask(question, entry))
        if entry.task is not None:
            entry.waiting.add(key)
        again = entry.again_at - now if entry.again_at is not None and entry.task is None else None
        return Preflight(entry.report, entry.report is None, again)

    def forget_others(self, questions: Collection[Question]) -> None:
        """Keep what is known of these; no resource asks anything else any more."""
        for question in [each for each, entry in self._entries.items() if each not in questions and entry.task is None]:
            del self._entries[question]

    async def close(self) -> None:
        tasks = [entry.task for entry in self._entries.values() if entry.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, question: Question, entry: _Entry) -> None:
        try:
            async with self._slots:
                report = await self._hub.ask(question)
        finally:
            entry.task = None
        if self._metrics is not None:
            self._metrics.preflights.labels(_outcome(report)).inc()
        if not report.reached:
            entry.failures += 1
            entry.again_at = time.monotonic() + backoff_seconds(
                entry.failures, random.random(), first=_UNREACHABLE_SECONDS, longest=_LONGEST_UNREACHABLE_SECONDS
            )
        else:
            entry.failures = 0
            entry.again_at = time.monotonic() + _REFUSED_SECONDS if report.failure is not None else None
        if report.reached or entry.report is None or not entry.report.reached:
            entry.report = report  # what a hub once reported holds while it can't be reached
        waiting, entry.waiting = entry.waiting, set()
        for key in waiting:
            self._changed(key)


def _outcome(report: HubReport) -> str:
    if not report.reached:
        return "unreachable"
    return "answered" if report.failure is None else "refused"


def question_of(resource: ModelDeployment) -> Question | None:
    """What the hub is asked about a resource; None where its source isn't on a hub."""
    try:
        source = parse_source(resource.spec.model.source)
    except InvalidSource:
        return None
    if not isinstance(source, HubSource):
        return None
    token = resource.spec.model.token_secret_ref is not None or any(
        variable.name == "HF_TOKEN" for variable in resource.spec.env
    )
    signature = resource.spec.model.signature
    return Question(source, token, allows_pickle(resource.spec), signature.file if signature is not None else None)
