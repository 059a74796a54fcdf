"""The state of a pod: how far its model is, what runs, whether it drains."""

import asyncio
import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

from aiohttp import web
from ams_common.adapters import parse_adapters
from ams_common.errors import ApiError
from ams_common.lifecycle import Phase
from ams_common.pod_settings import ServeSettings
from ams_common.progress import Failure, Load, Progress
from ams_common.reasons import Reason
from ams_common.resource.spec import GoldenPrompt
from ams_common.room import Room
from ams_tracing.tracer import open_tracer

from ams_pod.engines.port import (
    AdapterView,
    Capabilities,
    ChangesAdapters,
    Engine,
    EngineCounters,
    EngineHealth,
    LoadFailed,
    Occupancy,
    Opener,
    Supervised,
    TokenEvent,
)
from ams_pod.engines.registry import open_engine
from ams_pod.media.decoding import DecodeOptions, preload_codecs
from ams_pod.media.fair_pool import FairPool
from ams_pod.media.intake import Intake
from ams_pod.media.temp import TempFolder
from ams_pod.media.urls import AllowedHosts
from ams_pod.resident import resident_bytes
from ams_pod.serve.answer_version import answer_version, with_adapters
from ams_pod.serve.golden import check, parse_golden_prompts
from ams_pod.serve.keys import REQUEST_ID, SHARE, TRACK
from ams_pod.serve.machine import MachineWatch
from ams_pod.serve.metrics import Figures, PodMetrics
from ams_pod.serve.request_meter import RequestMeter, Undelivered
from ams_pod.serve.stall import StallWatch
from ams_pod.serve.tracks import RecentTracks
from ams_pod.serve.volume import VolumeWatch
from ams_pod.shares import EVERYBODY, Share, over_their_share

log = logging.getLogger(__name__)
_LARGE_BODIES = 2
_BODY_MEMORY_BYTES = 64 << 20  # of all unfinished bodies, beside those in files
_BODY_FILE_BYTES = 1 << 30
_COLLECTED_SECONDS = 3.0
_STALE_SECONDS = 3600.0  # temp files older than this, or of dead processes, go at start


class ModelPod:
    """Opens an engine on the compute thread and counts requests; lives on one event loop."""

    def __init__(self, settings: ServeSettings, folder: Path, open_engine: Opener = open_engine) -> None:
        self.settings = settings
        self.folder = folder
        self._given_adapters = tuple(each.name for each in parse_adapters(settings.adapters))
        self.progress = Progress(Phase.STARTING)
        self.engine: Engine | None = None
        self._answer_version = ""
        self.draining = False
        self.settled = asyncio.Event()  # it is ready, has failed, or ends
        self.drained = asyncio.Event()  # nothing runs any more, or what runs had its time
        self.active = 0
        self.started = int(time.time())
        self.failure: asyncio.Future[Failure] = asyncio.get_running_loop().create_future()
        self.undelivered = Undelivered()
        self.tracer = open_tracer(settings.otlp_endpoint, settings.trace_sample_ratio, "ams-pod")
        self.machine = MachineWatch()
        self.recent = RecentTracks(self.machine)
        self.volume = VolumeWatch(settings.models_dir)
        self.metrics = PodMetrics(self._figures, self.undelivered, name=settings.name, volume=lambda: self.volume.space)
        self._admitted: dict[RequestMeter, None] = {}  # in the order they came
        self.large_bodies = asyncio.Semaphore(_LARGE_BODIES)
        self.body_room = Room(_BODY_MEMORY_BYTES, max(_BODY_FILE_BYTES, 2 * settings.max_body_bytes))
        self.text_pool = FairPool(1, "prepare")
        self.media_pool = FairPool(1, "prepare-media")  # its own: a video must not delay a text
        self.constraint_pool = FairPool(1, "prepare-constraint")  # nor must a schema
        self.intake = Intake(
            TempFolder(settings.temp_dir), AllowedHosts.parse(settings.media_url_hosts), settings.max_body_bytes,
            self.metrics.observe_media,
        )  # fmt: skip
        self._open_engine = open_engine
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self.idle = asyncio.Event()  # no request runs or waits
        self.idle.set()
        self._phase: tuple[Phase, float] | None = None
        self._began = time.monotonic()
        self._in_place_at: float | None = None
        self._moved_at = self._began  # when loading last got anywhere
        self._stall = StallWatch(settings.stall_seconds)
        self._checking: asyncio.Task[None] | None = None
        self._recent_seconds = 1.0  # of a request, moving average
        self._compute = threading.Thread(target=self._run_compute, name="compute", daemon=True)

    @property
    def adapter_views(self) -> Sequence[AdapterView] | None:
        """Of LoRA adapters that come and go while the engine runs; None where they are those of the settings."""
        if not self.settings.adapters_state:
            return None
        return (self.engine.adapters or ()) if isinstance(self.engine, ChangesAdapters) else ()

    @property
    def adapters(self) -> tuple[str, ...]:
        """The names of those that requests get now."""
        if (views := self.adapter_views) is None:
            return self._given_adapters
        return tuple(each.name for each in views if each.version)

    @property
    def answer_version(self) -> str:
        """Of answers from now on; empty until the model is loaded."""
        views = self.adapter_views
        return with_adapters(self._answer_version, {each.name: each.version for each in views or () if each.version})

    def start(self) -> None:
        """Begin to load; `progress` tells how far it is and `failure` if it ended."""
        self._compute.start()
        self._watching = self._loop.create_task(self.machine.watch())
        self.tidied = self._loop.run_in_executor(None, self.intake.folder.clean, _STALE_SECONDS)

    def ready(self) -> Engine:
        """The engine, or ApiError while there is none or the pod drains."""
        if self.draining:
            raise ApiError("draining", "This model is shutting down.", retry_after=1, headers={"Connection": "close"})
        if self.engine is None:
            raise ApiError(
                "model_loading", f"The model is not ready: {self.progress.comment()}.", retry_after=2,
                phase=self.progress.phase, percent=self.progress.percent,
            )  # fmt: skip
        return self.engine

    def decode_options(self, capabilities: Capabilities) -> DecodeOptions:
        """What this model takes of videos and sound."""
        both = {"audio", "video"} <= set(capabilities.modalities)
        return DecodeOptions(
            frames=self.settings.video_frames,
            rate=capabilities.audio_rate,
            sound=both,
            sizes=capabilities.sizes,
            image_pixels=self.settings.image_pixels or None,
        )

    def meter(self, request: web.Request) -> RequestMeter:
        """For what a request uses."""
        track = request.get(TRACK)
        if track is not None:
            track.admitted(self.occupants() if self.engine is not None and self._is_crowded(self.engine) else None)
        return RequestMeter(request[REQUEST_ID], request[SHARE], self.undelivered, track)

    def _is_crowded(self, engine: Engine) -> bool:
        return self.active >= engine.info.concurrent_requests

    def occupants(self) -> Counter[str]:
        """How many places each key holds."""
        return Counter(meter.share.key for meter in self._admitted if not meter.displaced)

    def check_room(self, share: Share = EVERYBODY) -> Engine:
        """The engine; ApiError `queue_full` if there is no place for one more request of this key."""
        engine = self.ready()
        if self._is_full(engine) and self._who_makes_way(engine, share) is None:
            self.metrics.requests.labels("refused").inc()
            raise self._no_room(engine)
        return engine

    def _limit(self, engine: Engine) -> int:
        return engine.info.concurrent_requests + self.settings.queued_requests

    def _is_full(self, engine: Engine) -> bool:
        return sum(not meter.displaced for meter in self._admitted) >= self._limit(engine)

    def _who_makes_way(self, engine: Engine, share: Share) -> RequestMeter | None:
        """The newest request that hasn't begun, of the key that is furthest over its share of the places."""
        held = Counter(meter.share for meter in self._admitted if not meter.displaced)
        for over in over_their_share(held, share, self._limit(engine)):
            for meter in reversed(self._admitted):
                if meter.share.key == over.key and meter.movable:
                    return meter
        return None

    def _no_room(self, engine: Engine) -> ApiError:
        waiting = self.active - engine.info.concurrent_requests
        limit = self._limit(engine)
        return ApiError(
            "queue_full", f"{self.active} requests are running or waiting; the limit is {limit}.",
            retry_after=self._recent_seconds * (1 + max(0, waiting) / engine.info.concurrent_requests), limit=limit,
        )  # fmt: skip

    @contextlib.asynccontextmanager
    async def admit(self, meter: RequestMeter) -> AsyncIterator[Engine]:
        """A place for one request, in the batch or in the queue. ApiError `queue_full` if there is none.

        Where there is none and its key holds less than its share of them, the newest of another key makes way.
        """
        engine = self.ready()
        if self._is_full(engine):
            displaced = self._who_makes_way(engine, meter.share)
            if displaced is None or displaced.leave is None:
                self.metrics.requests.labels("refused").inc()
                raise self._no_room(engine)
            displaced.displaced = True
            displaced.leave()
        self.active += 1
        self.idle.clear()
        self._admitted[meter] = None
        started = time.monotonic()
        outcome = "failed"
        try:
            async with asyncio.timeout(self.settings.request_timeout_seconds) as limit:
                meter.leave = lambda: limit.reschedule(self._loop.time())
                try:
                    yield engine
                finally:
                    meter.leave = None
            outcome = "completed"
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        except TimeoutError:
            if meter.displaced:
                outcome = "refused"
                raise self._no_room(engine) from None
            outcome = "timeout"
            raise self._timed_out() from None
        except ApiError as error:
            outcome = "refused" if error.status < 500 else "failed"
            raise
        finally:
            seconds = time.monotonic() - started
            if outcome == "completed":
                self._recent_seconds = 0.9 * self._recent_seconds + 0.1 * seconds
                self.metrics.counts.note_startup("first-answer", started + seconds - self._began)
            self.metrics.requests.labels(outcome).inc()
            self.metrics.counts.duration.observe(seconds)
            self.active -= 1
            del self._admitted[meter]
            if not self.active:
                self.idle.set()

    def load(self) -> Load:
        """The body of `GET /load`."""
        engine = self.engine.occupancy() if self.engine else Occupancy()
        counters = self.engine.counters if self.engine else EngineCounters()
        return Load(
            in_flight=engine.running,
            queued=max(engine.waiting, self.active - engine.running),
            concurrent_requests=self.settings.concurrent_requests,
            queued_requests=self.settings.queued_requests,
            cache_tokens=engine.cache_tokens,
            cache_capacity_tokens=engine.cache_capacity_tokens,
            draining=self.draining,
            prompt_tokens=counters.prefill_tokens,
            generated_tokens=counters.decode_tokens,
            resident_bytes=resident_bytes(),
        )

    def stalled_seconds(self) -> float | None:
        """For how long the engine has hung, where that is longer than `stall_seconds` allows."""
        if self.engine is None or self.progress.phase is not Phase.READY or isinstance(self.engine, Supervised):
            return None  # an engine in a process of its own is watched there, and started again without this one
        return self._stall.stalled_seconds(self.engine.occupancy(), self.engine.counters, time.monotonic())

    @property
    def engine_health(self) -> EngineHealth | None:
        """Of an engine in a process of its own, once it is open."""
        return self.engine.health if isinstance(self.engine, Supervised) else None

    def engine_begins(self) -> None:
        """Whoever starts the engine has started it anew."""
        if isinstance(self.engine, Supervised):
            self.engine.begins()

    def engine_complaint(self) -> str | None:
        """Why whoever started the engine should end it; None while it does what it should."""
        if self.failure.done():
            return self.failure.result().message
        if self.engine is None:
            still = time.monotonic() - self._moved_at
            patience = self.settings.stall_seconds
            if patience and still > patience:
                return f"The engine has said nothing for {still:.0f} s while it loads ({self.progress.comment()})."
            return None
        health = self.engine_health
        return None if health is None or health.alive else health.message

    async def drain(self) -> None:
        """Refuse new requests and wait for the running ones, at most `grace_seconds`; then stop the engine."""
        self.draining = True
        self.settled.set()
        self.progress = Progress(Phase.DRAINING)
        if self._checking is not None:
            self._checking.cancel()
            await asyncio.gather(self._checking, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.settings.grace_seconds):
                await self.idle.wait()
        self.drained.set()
        if self.engine is not None:
            self.engine.stop()
        if self.engine is not None or self._checking is not None:
            await asyncio.to_thread(self._compute.join, 5.0)
        self._watching.cancel()
        self.intake.close()
        for pool in (self.text_pool, self.media_pool, self.constraint_pool):
            pool.close()
        await self._be_collected()
        if self.tracer is not None:
            await asyncio.to_thread(self.tracer.close)

    async def _be_collected(self) -> None:
        """Where a gateway collects what it hasn't heard, it has a moment to do so."""
        ends = self._loop.time() + _COLLECTED_SECONDS
        while self.undelivered.asked and self.undelivered and self._loop.time() < ends:  # noqa: ASYNC110
            await asyncio.sleep(0.05)

    def _timed_out(self) -> ApiError:
        seconds = self.settings.request_timeout_seconds
        return ApiError("timeout", f"The answer was not complete after {seconds:g} seconds.", limit_seconds=seconds)

    def _run_compute(self) -> None:
        """The compute thread: import, load, then compute until stopped."""
        try:
            self._report(Phase.IMPORTING, None)
            engine = self._open_engine(self.folder, self.settings, self._publish, self._report, self._loop)
            self._answer_version = answer_version(self.folder, self.settings, engine.info)
            self._post(self._be_checked, engine)
            engine.run()
        except LoadFailed as error:
            self._post(self._fail, Failure(error.reason, str(error)))
        except BaseException as error:
            log.exception("the compute thread ended")
            self._post(self._fail, Failure(Reason.LOAD_FAILED, f"{type(error).__name__}: {error}"))

    def _report(self, phase: Phase, percent: float | None) -> None:
        self._post(self._note_phase, phase, percent, time.monotonic())

    def _publish(self, events: list[TokenEvent]) -> None:
        if threading.get_ident() == self._loop_thread:  # without waking a loop that is awake
            self._loop.call_soon(_dispatch, events)
        else:
            self._post(_dispatch, events)

    def _post(self, function: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(function, *arguments)

    def _note_phase(self, phase: Phase, percent: float | None, now: float) -> None:
        self._moved_at = now
        if self._phase is None or self._phase[0] != phase:
            if self._phase is not None:
                name, since = self._phase
                self.metrics.load_phase.labels(name).set(now - since)
                log.info("%s took %.2f s", name, now - since)
            self._phase = (phase, now)
            self._note_startup(phase, now)
        if not self.draining:
            self.progress = Progress(phase, percent)

    def _note_startup(self, phase: Phase, now: float) -> None:
        if phase not in (Phase.WARMING_UP, Phase.CHECKING, Phase.READY):
            return
        if self._in_place_at is None:
            self._in_place_at = now
            self.metrics.counts.note_startup("load", now - self._began)
        if phase is Phase.READY and self.engine is None:
            self.metrics.counts.note_startup("warm-up", now - self._in_place_at)

    def _be_checked(self, engine: Engine) -> None:
        """By the golden prompts, before anybody may ask."""
        if prompts := parse_golden_prompts(self.settings.golden_prompts):
            self._checking = self._loop.create_task(self._check(prompts, engine))
        else:
            self._become_ready(engine)

    async def _check(self, prompts: list[GoldenPrompt], engine: Engine) -> None:
        self._note_phase(Phase.CHECKING, None, time.monotonic())
        try:
            complaint = await check(prompts, engine, self.settings, self.metrics, self.text_pool.executor)
            if complaint is None:
                self._become_ready(engine)
        except Exception as error:
            log.exception("a golden prompt failed to run")
            complaint = f"A golden prompt failed to run: {type(error).__name__}: {error}"
        finally:
            if self.engine is None:  # it failed, or the pod ends
                engine.stop()
        if complaint is not None:
            self._fail(Failure(Reason.GOLDEN_PROMPT_FAILED, complaint))

    def _become_ready(self, engine: Engine) -> None:
        self._note_phase(Phase.READY, None, time.monotonic())
        self.engine = engine
        self.settled.set()
        info = engine.info
        if set(engine.capabilities.modalities) != {"text"}:
            self.media_pool.executor.submit(preload_codecs)
        log.info(
            "%s is ready: %s, %s on %s, %d tokens of context, engine %s",
            self.settings.name, info.architecture, info.precision, info.device, info.context_tokens, info.engine,
        )  # fmt: skip

    def _fail(self, failure: Failure) -> None:
        self.progress = Progress(Phase.FAILED, message=failure.message, failure=failure)
        self.settled.set()
        if not self.failure.done():
            self.failure.set_result(failure)

    def _figures(self) -> Figures | None:
        if (engine := self.engine) is None:
            return None
        load = self.load()
        return Figures(
            load=engine.occupancy(),
            counters=engine.counters,
            waiting=load.queued,
            concurrent_requests=engine.info.concurrent_requests,
            queued_requests=load.queued_requests,
            stalled_seconds=self.stalled_seconds() or 0.0,
            memory=engine.memory(),
            engine_restarts=dict(health.counts) if (health := self.engine_health) is not None else None,
        )


def _dispatch(events: list[TokenEvent]) -> None:
    for event in events:
        event.ticket.sink(event)
