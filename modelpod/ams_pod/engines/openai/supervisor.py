"""An engine's life: started or awaited, asked for what it is, watched, ended and started again, put to sleep."""

import asyncio
import contextlib
import logging
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ams_common.lifecycle import Phase
from ams_common.plain import plain_text
from ams_common.pod_settings import ServeSettings

from ams_pod.engines.openai.adapters import AdapterFollower, stop_following
from ams_pod.engines.openai.child import Child, Command, free_port, new_key
from ams_pod.engines.openai.core import Core
from ams_pod.engines.openai.dialects.base import Dialect
from ams_pod.engines.openai.figures import figures_of
from ams_pod.engines.openai.http import Address, EngineUnreachable, fetch
from ams_pod.engines.openai.log_file import LogFile, phase_of, telling_line
from ams_pod.engines.openai.pieces import EngineFigures, Facts
from ams_pod.engines.openai.watch import Verdict, verdict
from ams_pod.engines.port import EngineHealth, LoadFailed, ReportPhase, Restart

log = logging.getLogger(__name__)
_LOOK_SECONDS = 0.1  # while the engine loads
_WATCH_SECONDS = 1.0
_HEALTH_SECONDS = 2.0  # between questions to a health route of an engine that says nothing else
_HEALTH_TIMEOUT = 5.0
_NOT_THERE = (401, 403, 404, 405, 501)  # of a health route that isn't one; an answer all the same
_SICK_SECONDS = 3.0  # for which a health route may complain
_FIGURES_SECONDS = 2.0
_IDLE_FIGURES_SECONDS = 20.0
_FACTS_TIMEOUT = 30.0
_WAKE_TIMEOUT = 120.0
_CONDEMNED_SECONDS = 300.0  # after which an engine that nobody ended, and that answers, is trusted again
_BACKOFFS = (0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0)
_STEADY_SECONDS = 120.0  # an engine that ran for so long ended by chance
_MOST_STARTS = 5  # that fail in a row, once it was there
_MOST_RESTARTS_TOLD = 20
_LONGEST_VERSION = 100  # characters


@dataclass(slots=True)
class State:
    """What others may read, from any thread."""

    facts: Facts = field(default_factory=Facts)
    figures: EngineFigures = field(default_factory=EngineFigures)
    is_gpu: bool = False
    asleep: bool = False
    down: str = ""  # why it isn't there
    condemned: str = ""  # why whoever started it is to end it
    restarts: list[Restart] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    resident_bytes: int = 0


class Supervisor:
    """Of one engine: a process of ours where there is a command, else one that runs beside."""

    def __init__(
        self,
        dialect: Dialect,
        settings: ServeSettings,
        model: str,
        report: ReportPhase,
        adapters: AdapterFollower | None = None,
        words: Mapping[str, str] | None = None,
    ) -> None:
        """`adapters`: those that come and go while it runs, None where none do. `words` stand for something in
        the engine's command.

        LoadFailed where the settings say neither how to start the engine nor where it is.
        """
        self.state = State()
        self.adapters = adapters
        self._following: asyncio.Task[None] | None = None
        self._dialect, self._settings, self._model, self._report = dialect, settings, model, report
        self._words = words
        self._command: Command | None = None
        self._child: Child | None = None
        self._address = Address()
        log_path = settings.engine_log
        if settings.engine_command:
            self._command = Command.parse(settings.engine_command, settings.engine_variables)
            log_path = log_path or _scratch_log()
        elif settings.engine_address:
            try:
                self._address = Address.parse(settings.engine_address)
            except ValueError as error:
                raise LoadFailed(f"--engine-address: {error}") from None
        else:
            raise LoadFailed(f"engine {settings.engine} needs --engine-command, or --engine-address of one that runs")
        self._log_path = log_path
        self._log = LogFile(log_path)
        self._news = asyncio.Event()
        self._failed_starts = 0
        self._asked_health_at = 0.0
        self._figures_at = 0.0
        self._condemned_at = 0.0
        self._sick_since: float | None = None
        self._health = 0  # which of the dialect's health routes is there
        self._begun = False
        self._complains = False  # its health route answers, and says no
        self._told: tuple[Phase, float | None] | None = None
        self._seen: list[str] = []

    @property
    def address(self) -> Address:
        return self._address

    @property
    def health(self) -> EngineHealth:
        """How it is, for probes and for people."""
        state = self.state
        return EngineHealth(
            alive=not state.condemned or self._begun,
            available=not state.down and not state.condemned,
            message=state.condemned or state.down or ("asleep" if state.asleep else ""),
            version=state.facts.version,
            restarts=tuple(state.restarts),
            counts=dict(state.counts),
        )

    def begins(self) -> None:
        """A condemned engine was ended, and another process is in its place: it may answer before that is noticed."""
        self._begun = bool(self.state.condemned)

    async def open(self) -> None:
        """Return when the engine answers. LoadFailed if it ended instead."""
        self._tell(Phase.STARTING, None)
        if self._command is not None:
            self._start(self._command)
        await self._until_healthy()
        await self._ask_facts()
        if self.adapters is not None:
            await self.adapters.begin(self._address)

    def suspect(self) -> None:
        """Look at once: a request lost its engine."""
        self._asked_health_at = 0.0
        self._news.set()

    async def watch(self, core: Core) -> None:
        """Until cancelled. LoadFailed where the engine can't be started any more."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), _WATCH_SECONDS)
            self._news.clear()
            self._log.news()  # which keeps it from growing
            await self._look(core)
            self._follow(core)

    def _follow(self, core: Core) -> None:
        """Beside the watch, which goes on meanwhile: to load an adapter takes an engine a while."""
        if self.adapters is None or (self._following is not None and not self._following.done()):
            return
        news = self.adapters.read()
        if self.state.asleep or self.state.down or self.state.condemned:
            return
        if news or self.adapters.has_work(core.uses, time.monotonic()):
            going_on = self.adapters.go_on(self._address, core.uses, core.offer)
            self._following = asyncio.get_running_loop().create_task(going_on)
            self._following.add_done_callback(_tell_failure)

    async def close(self) -> None:
        await stop_following(self._following)
        if self._child is not None:
            await self._child.end()
        if self._log_path and not self._settings.engine_log:
            with contextlib.suppress(OSError):
                os.unlink(self._log_path)

    async def _look(self, core: Core) -> None:
        if self._child is not None and (how := self._child.ended()) is not None:
            await self._come_back(core, Verdict("ended", f"its process {how}{self._last_words()}"))
            return
        if self._begun:
            self._begun = False
            await self._come_back(core, Verdict("ended", "whoever runs it has started it again"))
            return
        now = time.monotonic()
        if self.state.asleep:
            if core.waiting or (self.adapters is not None and self.adapters.wants_to_load(now)):
                await self._wake(core)
            return
        quiet = now - core.answered_at > _HEALTH_SECONDS
        if (quiet or not self._asked_health_at) and now - self._asked_health_at > _HEALTH_SECONDS:
            self._asked_health_at = now
            healthy = await self._is_healthy()
            if not self._complains:
                self._sick_since = None
            elif self._sick_since is None:
                self._sick_since = now
                self._asked_health_at = 0.0
            if healthy:
                core.answered()
                if not self.state.condemned:
                    core.resume()
            elif healthy is None:  # nobody listens
                if self._child is None:
                    await self._come_back(core, Verdict("ended", "nothing listens at its address any more"))
                    return
                if self._child.ended() is None:
                    await asyncio.sleep(_LOOK_SECONDS)
                    self._news.set()  # it ends just now, or is about to
        if self._sick_since is not None and now - self._sick_since >= _SICK_SECONDS and not self.state.condemned:
            self._sick_since = None
            await self._end_hung(core, Verdict("stalled", "its health route says that it doesn't work"))
            return
        found = verdict(core.signs(), time.monotonic(), self._settings.stall_seconds)
        if found is not None and not self.state.condemned:
            await self._end_hung(core, found)
        elif self.state.condemned and time.monotonic() - self._condemned_at > _CONDEMNED_SECONDS and found is None:
            self.state.condemned = ""
            core.resume()
        await self._ask_figures(core)
        if self._may_sleep(core):
            await self._sleep(core)

    async def _end_hung(self, core: Core, found: Verdict) -> None:
        """Ours is ended here; whoever started another one is told by the route that they ask."""
        log.error("%s hangs: %s", self._dialect.title, found.sentence)
        core.pause()
        if self._child is not None:
            core.lose_all(found.sentence)
            await self._child.end(at_once=True)
            await self._come_back(core, found)
            return
        self.state.condemned = f"{self._dialect.title} hangs: {found.sentence}"
        self._condemned_at = time.monotonic()
        self._note_restart(found)
        core.lose_all(found.sentence)
        self._tell(Phase.STARTING, None)

    async def _come_back(self, core: Core, found: Verdict) -> None:
        """The engine is gone: what it computed is lost, and it is there again when this returns."""
        title = self._dialect.title
        self.state.down = f"{title} is started again: {found.sentence}"
        core.pause()
        if self.state.condemned:
            self.state.condemned = ""
        else:
            self._note_restart(found)
        log.error("%s", self.state.down)
        self._tell(Phase.STARTING, None)
        core.lose_all(found.sentence)
        await stop_following(self._following)
        await asyncio.sleep(0)  # what was lost is told before anything new is
        while True:
            try:
                if self._command is not None:
                    await self._start_again(self._command)
                await self._until_healthy()
                await self._ask_facts()
                if self.adapters is not None:
                    await self.adapters.begin(self._address)
                    core.offer(self.adapters.served)
            except (LoadFailed, EngineUnreachable) as error:
                self._failed_starts += 1
                self.state.down = f"{title} doesn't start: {error}"
                log.error("%s", self.state.down)
                if self._failed_starts >= _MOST_STARTS and self._command is not None:
                    raise LoadFailed(self.state.down) from None
                continue
            break
        self.state.down, self.state.asleep = "", False
        self._sick_since = None  # it was another one that complained
        core.restarted(self._address)
        log.info("%s is there again", title)
        self._tell(Phase.READY, None)

    async def _start_again(self, command: Command) -> None:
        if self._child is not None:
            if time.monotonic() - self._child.started_at > _STEADY_SECONDS:
                self._failed_starts = 0
            await self._child.end(at_once=True)
            delay = _BACKOFFS[min(self._failed_starts, len(_BACKOFFS) - 1)]
            if delay:
                await asyncio.sleep(delay)
        self._start(command)

    def _start(self, command: Command) -> None:
        key, dialect = new_key(), self._dialect
        self._address = Address(port=free_port(), key=key)
        variables: Mapping[str, str] = {**dialect.extra_variables, **command.variables}
        if dialect.sleep_path and self._settings.engine_sleep_seconds:
            variables = {"VLLM_SERVER_DEV_MODE": "1", **variables}
        filled = Command(command.arguments, variables).filled(self._model, self._address.port, self._words)
        self._child = Child.start(filled, self._log_path, {dialect.key_variable: key})

    async def _until_healthy(self) -> None:
        """LoadFailed if a child of ours ends meanwhile. One that somebody else started may end and come again."""
        while True:
            healthy = await self._is_healthy()
            news = self._log.news()
            self._seen = [*self._seen, *news][-200:]
            if (found := phase_of(self._seen, self._dialect.phases)) is not None:
                self._tell(*found, anew=bool(news))
            if healthy:
                break
            if self._child is not None and (how := self._child.ended()) is not None:
                raise LoadFailed(f"{self._dialect.title} {how} before it was ready{self._last_words()}")
            await asyncio.sleep(_LOOK_SECONDS)
        self._seen = []

    async def _is_healthy(self) -> bool | None:
        """None where nobody listens."""
        self._complains = False
        paths = self._dialect.health_paths
        try:
            answer = await fetch(self._address, paths[self._health], seconds=_HEALTH_TIMEOUT)
            while answer.status in _NOT_THERE and self._health < len(paths) - 1:
                self._health += 1
                answer = await fetch(self._address, paths[self._health], seconds=_HEALTH_TIMEOUT)
        except EngineUnreachable as error:
            return None if "nothing listens" in str(error) else False
        healthy = answer.status == 200 or (len(paths) > 1 and answer.status in _NOT_THERE)
        self._complains = not healthy
        return healthy

    async def _ask_facts(self) -> None:
        answers: dict[str, bytes] = {}
        for path in self._dialect.facts_paths:
            if self._dialect.older_paths.get(path) in answers:
                continue
            answer = await fetch(self._address, path, seconds=_FACTS_TIMEOUT)
            if answer.status == 200:
                answers[path] = answer.body
            elif answer.status in (401, 403):
                raise LoadFailed(f"{self._dialect.title} doesn't take the key that it was started with")
        facts = self._dialect.facts(answers, (self._settings.name, self._model))
        self.state.facts = replace(facts, version=plain_text(facts.version, _LONGEST_VERSION))
        self.state.is_gpu = self._dialect.is_gpu(self.state.facts, "\n".join(self._log.tail()))

    async def _ask_figures(self, core: Core) -> None:
        now = time.monotonic()
        every = _FIGURES_SECONDS if core.running or core.cancelled_at else _IDLE_FIGURES_SECONDS
        if now - self._figures_at < every or not self._dialect.metrics_path:
            return
        self._figures_at = now
        if self._child is not None:
            self.state.resident_bytes = self._child.resident_bytes()
        try:
            answer = await fetch(self._address, self._dialect.metrics_path, seconds=_HEALTH_TIMEOUT)
        except EngineUnreachable:
            return
        if answer.status != 200:
            return
        core.answered()
        self.state.figures = figures = figures_of(answer.body, self._dialect.metric_names)
        if (since := core.cancelled_at) is None or figures.running is None:
            return
        if figures.running <= core.running:
            core.cancelled_at = None
        elif now - since > _HEALTH_TIMEOUT:
            log.warning(
                "%s still computes %d requests %.0f s after one was cancelled, %d of them ours",
                self._dialect.title, figures.running, now - since, core.running,
            )  # fmt: skip
            core.cancelled_at = None

    def _may_sleep(self, core: Core) -> bool:
        wait = self._settings.engine_sleep_seconds
        idle = not core.running and not core.waiting and (self._following is None or self._following.done())
        return bool(wait and self._dialect.sleep_path and idle and time.monotonic() - core.idle_since > wait)

    async def _sleep(self, core: Core) -> None:
        core.pause()
        core.idle_since = time.monotonic()  # tried again after as long, if it fails
        try:
            answer = await fetch(self._address, self._dialect.sleep_path, method="POST", seconds=_WAKE_TIMEOUT)
        except EngineUnreachable as error:
            log.warning("%s can't be put to sleep: %s", self._dialect.title, error)
            core.resume()
            return
        if answer.status != 200:
            log.warning("%s can't be put to sleep: it answers %d", self._dialect.title, answer.status)
            core.resume()
            return
        log.info("%s sleeps, after %g s without requests", self._dialect.title, self._settings.engine_sleep_seconds)
        self.state.asleep = True
        if core.waiting:
            self._news.set()

    async def _wake(self, core: Core) -> None:
        began = time.monotonic()
        self._tell(Phase.WARMING_UP, None)
        try:
            answer = await fetch(self._address, self._dialect.wake_path, method="POST", seconds=_WAKE_TIMEOUT)
            if answer.status != 200:
                raise EngineUnreachable(f"it answers {answer.status}")
        except EngineUnreachable as error:
            found = Verdict("silent", f"it can't be woken: {error}")
            self.state.asleep = False
            await self._end_hung(core, found)
            return
        self.state.asleep = False
        log.info("%s is awake again, after %.1f s", self._dialect.title, time.monotonic() - began)
        core.answered()
        core.resume()
        self._tell(Phase.READY, None)

    def _note_restart(self, found: Verdict) -> None:
        state = self.state
        state.counts[found.reason] = state.counts.get(found.reason, 0) + 1
        state.restarts = [*state.restarts, Restart(time.time(), found.reason, found.sentence)][-_MOST_RESTARTS_TOLD:]

    def _last_words(self) -> str:
        words = telling_line(self._log.tail())
        return f"; its log ends with: {words}" if words else ""

    def _tell(self, phase: Phase, percent: float | None, *, anew: bool = False) -> None:
        """`anew`: also where it was told already, as something moved."""
        if anew or (phase, percent) != self._told:
            self._told = (phase, percent)
            self._report(phase, percent)


def _tell_failure(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("adapters can't be loaded or unloaded", exc_info=error)


def _scratch_log() -> str:
    with tempfile.NamedTemporaryFile(prefix="ams-engine-", suffix=".log", delete=False) as file:
        return file.name
