"""One model on this machine: carries out what `process_state.next_action` decides, and reports its progress."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ams_common.engines.choose import EngineChoice
from ams_common.errors import ApiError
from ams_common.lifecycle import Phase
from ams_common.progress import Failure, Progress
from ams_common.reasons import Reason
from ams_common.resource.spec import ModelDeployment
from ams_gateway.broadcast import Broadcast
from ams_gateway.registry.port import Backend

from ams_cli.jobs import Jobs, ProcessSetup
from ams_cli.liveness import until_hung
from ams_cli.process_state import Action, ProcessDemand, ProcessState, next_action, policy_of
from ams_cli.processes.process import Process
from ams_cli.readiness import ReadinessProbe

logger = logging.getLogger("ams_cli")

_KILL_MARGIN_SECONDS = 3.0  # beyond the grace that the process gives its requests
_RETRY_AFTER_SECONDS = 10.0
_LOOK_SECONDS = 0.05


class Supervisor:
    """Supervises one model. Everything runs on the event loop's thread.

    `make_room` is awaited before the model's process starts; it may end others'.
    """

    def __init__(
        self,
        resource: ModelDeployment,
        setup: ProcessSetup,
        on_change: Callable[["Supervisor"], None],
        make_room: Callable[["Supervisor"], Awaitable[None]],
    ) -> None:
        self.resource = resource
        self.name = resource.metadata.name
        self.policy = policy_of(resource)
        self.state = ProcessState()
        self.progress = Progress(self.policy.at_rest, message=self.policy.suspended or "")
        self.backend: Backend | None = None
        self._jobs = Jobs(resource, setup)
        self._grace_seconds = setup.grace_seconds
        self._liveness = setup.liveness
        self._on_change = on_change
        self._make_room = make_room
        self._changed = Broadcast()
        self._waiting = 0
        self._stops = 0  # by hand
        self._stopped_by_hand = False
        self._draining = False
        self._loop = asyncio.get_running_loop()
        self._job: asyncio.Task[None] | None = None
        self._stop: asyncio.Task[object] | None = None
        self._wish: asyncio.Task[None] | None = None
        self._check: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._hung: str | None = None  # why we ended the process, where it didn't end by itself

    @property
    def demand(self) -> ProcessDemand:
        if self.backend is None:
            return ProcessDemand(self._waiting)
        return ProcessDemand(self._waiting, self.backend.in_flight, self.backend.last_used)

    @property
    def process(self) -> Process | None:
        """The process of this model, if one runs."""
        process = self._jobs.process
        return process if process is not None and process.running else None

    @property
    def startup_log(self) -> tuple[Path, int]:
        """The log of this model's processes, and the byte at which that of the current start-up begins."""
        return self._jobs.log, self._jobs.startup_began

    @property
    def engine(self) -> EngineChoice:
        """Which engine serves it, by what is known of the model now."""
        return self._jobs.engine()

    @property
    def engine_log(self) -> Path:
        """What an engine of another make has written in this run of `ams up`; there need be no such file."""
        return self._jobs.engine_log

    async def run(self) -> None:
        """Do what is to be done until cancelled; then end the process, and return when it is gone."""
        try:
            while True:
                seen, now = self._changed.version, self._loop.time()
                policy = self.policy.stopped_by_hand() if self._stopped_by_hand else self.policy
                action, wake_at = next_action(policy, self.state, self.demand, now)
                if action is not None and not self._draining:
                    self._carry_out(action)
                else:
                    await self._changed.changed_since(seen, None if wake_at is None else max(wake_at - now, 0.0))
        finally:
            await self._end()

    async def wait_ready(self) -> AsyncIterator[Progress]:
        """As `ams_gateway.registry.port.Registry.wait_ready`."""
        with self._wanted():
            stops = self._stops
            while self.backend is None:
                if (error := self._refusal()) is not None:
                    raise error
                if self._stops != stops:
                    raise ApiError("draining", f"{self.name} was stopped.", retry_after=_RETRY_AFTER_SECONDS)
                seen = self._changed.version
                yield self.progress
                await self._changed.changed_since(seen)

    def drain(self) -> None:
        """Start nothing more, and refuse those who wait."""
        self._draining = True
        self._beat()

    def start(self) -> Progress:
        """Start as a request would, also after a failure; ApiError `suspended` or `draining`."""
        if self.state.phase is Phase.IDLE:
            self.state = self.state.asked_again()
        if (error := self._refusal()) is not None:
            raise error
        self._stopped_by_hand = False
        if self.backend is None and (self._wish is None or self._wish.done()):
            self._wish = asyncio.create_task(self._until_ready())
        self._beat()
        return self.progress

    def stop(self) -> Progress:
        """End what runs once its requests are finished, and refuse who waits; only who asks again starts it."""
        self._stopped_by_hand = True
        self._stops += 1
        if self.state.phase in (Phase.DOWNLOADING, Phase.STARTING, Phase.READY):
            self.backend = None
            self._now_is(self.state.stopping(), Progress(Phase.DRAINING, message="stopped by hand"))
            self._stop = asyncio.create_task(self._end_job())
        elif self.state.phase is Phase.IDLE:
            self._now_is(self.state.asked_again(), Progress(self.policy.at_rest, message=self.policy.suspended or ""))
        self._beat()
        return self.progress

    def kill(self) -> None:
        """End the process without any grace."""
        if (process := self.process) is not None:
            process.kill()

    def note(self, message: str) -> None:
        """Say to waiting requests why the model doesn't start yet."""
        self._report(Progress(Phase.STARTING, message=message))

    def check(self) -> None:
        """A client could not connect: make sure that the process still answers, and end it if it doesn't."""
        if self.backend is not None and (self._check is None or self._check.done()):
            self._check = asyncio.create_task(self._end_if_silent(self.backend))

    async def leave(self) -> None:
        """Stop serving to make room for another model, unless it is in use; return when the process is gone."""
        if not (self.demand.in_flight or self.demand.waiting):
            self._stop_serving("stopped to make room")
        if self._stop is not None:
            await self._stop

    async def _until_ready(self) -> None:
        with suppress(ApiError):
            async for _ in self.wait_ready():
                pass

    async def _end_job(self) -> None:
        """End the process of the job that runs, also where it is only about to be started."""
        while self._job is not None and not self._job.done():
            if (process := self.process) is not None:
                await process.stop(self._grace_seconds + _KILL_MARGIN_SECONDS)
                return
            await self._changed.changed_since(self._changed.version, _LOOK_SECONDS)

    @contextmanager
    def _wanted(self) -> Iterator[None]:
        self._waiting += 1
        self._beat()
        try:
            yield
        finally:
            self._waiting -= 1
            self._beat()

    def _refusal(self) -> ApiError | None:
        if self._draining:
            return ApiError("draining", "The server is stopping.", retry_after=_RETRY_AFTER_SECONDS)
        if self.policy.suspended is not None:
            return ApiError("suspended", self.policy.suspended)
        now = self._loop.time()
        failure = self.state.refusal(now)
        if failure is None:
            return None
        return ApiError(
            "model_failed",
            f"{self.name} can't be served ({failure.reason}): {failure.message}",
            retry_after=self.state.not_before - now,
            reason=failure.reason,
            retryable=failure.retryable,
        )

    def _carry_out(self, action: Action) -> None:
        self._stopped_by_hand &= action is Action.STOP
        match action:
            case Action.DOWNLOAD:
                self._now_is(self.state.downloading(), Progress(Phase.DOWNLOADING))
                self._job = asyncio.create_task(self._guarded(self._download()))
            case Action.START:
                self._now_is(self.state.starting(), Progress(Phase.STARTING))
                self._job = asyncio.create_task(self._guarded(self._serve()))
            case Action.STOP:
                self._stop_serving("stopped while idle")

    async def _guarded(self, job: Coroutine[Any, Any, None]) -> None:
        """A fault of ours fails this model with a traceback in the log, instead of leaving it in mid-air."""
        try:
            await job
        except Exception as error:
            logger.exception("%s: the supervisor failed", self.name)
            self.backend = None
            self.kill()
            self._failed(Failure(Reason.INTERNAL_ERROR, f"{type(error).__name__}: {error}", retryable=True))

    async def _download(self) -> None:
        failure = await self._jobs.download(self._report)
        if self.state.phase is Phase.DRAINING:
            self._now_is(self.state.stopped(), Progress(self.policy.at_rest))
        elif failure is None:
            self._now_is(self.state.downloaded(), Progress(Phase.PENDING, message="the weights are on disk"))
        else:
            self._failed(failure)

    async def _serve(self) -> None:
        await self._make_room(self)
        if self._is_ending():
            self._now_is(self.state.stopped(), Progress(self.policy.at_rest))
            return
        self._hung = None
        ended = await self._jobs.serve(self._report, self._ready)
        self.backend = None
        if self._watch is not None:
            self._watch.cancel()
        how = self._hung or ended.how
        now, draw = self._loop.time(), random.random()
        if self._is_ending():
            self._now_is(self.state.stopped(), Progress(self.policy.at_rest))
        elif ended.failure is not None:
            self._failed(ended.failure)
        else:
            logger.warning("%s: %s", self.name, how)
            state = self.state.crashed(how, now, draw)
            phase = self.policy.at_rest if state.failure is None else Phase.FAILED  # the next request starts it again
            self._now_is(state, Progress(phase, message=how, failure=state.failure))

    def _is_ending(self) -> bool:
        return self.state.phase is Phase.DRAINING

    def _ready(self, address: str, pid: int) -> None:
        if self._is_ending():  # it was told to just now
            return
        now = self._loop.time()
        self.backend = Backend(f"{self.name}-{pid}", address, last_used=now)
        self._watch = asyncio.create_task(self._end_if_hung(address.removeprefix("unix://")))
        self._now_is(self.state.ready(now), Progress(Phase.READY))

    def _failed(self, failure: Failure) -> None:
        state = self.state.failed(failure, self._loop.time(), random.random())
        self._now_is(state, Progress(Phase.FAILED, message=f"{failure.reason}: {failure.message}", failure=failure))

    def _stop_serving(self, why: str) -> None:
        process = self.process
        if process is None or self.state.phase is not Phase.READY:
            return
        self.backend = None  # before the process gets the signal: new requests wait, or start it again
        self._now_is(self.state.stopping(), Progress(Phase.DRAINING, message=why))
        self._stop = asyncio.create_task(process.stop(self._grace_seconds + _KILL_MARGIN_SECONDS))

    async def _end_if_hung(self, socket_path: str) -> None:
        self._hung = await until_hung(socket_path, self._liveness)
        self.kill()

    async def _end_if_silent(self, backend: Backend) -> None:
        async with ReadinessProbe(backend.address.removeprefix("unix://")) as probe:
            answered = await probe.ask()
        if answered is None and self.backend is backend:
            self.kill()

    def _report(self, progress: Progress) -> None:
        if not self._is_ending():
            self._now_is(self.state, progress)

    def _now_is(self, state: ProcessState, progress: Progress) -> None:
        self.state = state
        self.progress = progress
        self._beat()
        self._on_change(self)

    def _beat(self) -> None:
        self._changed.notify()

    async def _end(self) -> None:
        """End whatever runs for this model, and wait for it."""
        self.backend = None
        if (process := self.process) is not None:
            self._now_is(self.state.stopping(), Progress(Phase.DRAINING, message="the server is stopping"))
            await process.stop(self._grace_seconds + _KILL_MARGIN_SECONDS)
            if self._job is not None:
                await self._job
        tasks = [task for task in (self._job, self._stop, self._check, self._watch, self._wish) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if (process := self.process) is not None:  # it was being started
            await process.stop(self._grace_seconds)
