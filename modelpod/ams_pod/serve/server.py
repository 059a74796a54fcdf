"""Run a pod: listen at once, load, serve, drain on SIGTERM."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import uvloop
from aiohttp import web
from ams_common.adapters import parse_adapters
from ams_common.collector import collect_rarely, hold_back_full_collections, leave_out_what_is_here
from ams_common.json_lines import JsonLines
from ams_common.options import OptionError, parse
from ams_common.outside import InvalidJson
from ams_common.pod_settings import DownloadSettings, ServeSettings
from ams_common.progress import Failure
from ams_common.reasons import Reason
from ams_common.source import FileSource, InvalidSource, Source, parse_source
from ams_tracing.tracer import check_tracing

from ams_pod.heap import share_one_heap
from ams_pod.layout import find_adapter, find_model, local_gguf
from ams_pod.media.urls import AllowedHosts
from ams_pod.resident import resident_bytes
from ams_pod.serve.app import make_app
from ams_pod.serve.golden import parse_golden_prompts
from ams_pod.serve.pod import ModelPod
from ams_pod.termination import explain_end

_KEEPALIVE_SECONDS = 75.0  # longer than the gateway's, so that the gateway closes idle connections first
_SWITCH_SECONDS = 0.0005  # the compute thread waits for the interpreter at most about this long
_LOADED_SECONDS = 60.0  # what was loaded is gone through by then, a tenth of a second, also where nothing is idle

log = logging.getLogger(__name__)


def run(argv: Sequence[str], environment: Mapping[str, str] = os.environ) -> int:
    """The command `ams-pod serve`; the exit status."""
    settings = parse(
        ServeSettings, "ams-pod serve", argv, environment, "Serve one model over HTTP.", shared_with=DownloadSettings
    )
    handler = logging.StreamHandler(sys.stderr)
    console = logging.Formatter("%(asctime)s %(levelname).1s %(name)s: %(message)s")
    handler.setFormatter(JsonLines() if settings.log_format == "json" else console)
    logging.basicConfig(level=logging.DEBUG if settings.debug else logging.INFO, handlers=[handler])
    if (refusal := unsupported(settings)) is not None:
        return explain_end(settings.termination_log, Failure(Reason.LOAD_FAILED, refusal))
    try:
        source = parse_source(settings.source)
        folder = find_model(source, Path(settings.models_dir), settings.engine)
    except InvalidSource as error:
        return explain_end(settings.termination_log, Failure(Reason.INVALID_SOURCE, str(error)))
    if folder is None:
        return explain_end(settings.termination_log, Failure(Reason.WEIGHTS_MISSING, _missing(source, settings)))
    if (missing := _missing_adapter(settings)) is not None:
        return explain_end(settings.termination_log, Failure(Reason.WEIGHTS_MISSING, missing))
    sys.setswitchinterval(_SWITCH_SECONDS)
    share_one_heap()
    hold_back_full_collections()  # a third of a second of importing and loading
    failure = uvloop.run(serve(settings, folder))
    return 0 if failure is None else explain_end(settings.termination_log, failure)


def unsupported(settings: ServeSettings) -> str | None:
    """Why these settings can't be honoured: a model that ignored them would not be what its owner configured."""
    try:
        AllowedHosts.parse(settings.media_url_hosts)
    except ValueError as error:
        return f"--media-url-hosts: {error}."
    try:
        check_tracing(settings.otlp_endpoint)
    except OptionError as error:
        return f"{error}."
    try:
        parse_golden_prompts(settings.golden_prompts)
    except ValueError as error:
        return f"--golden-prompts: {error}."
    return _adapters_problem(settings)


def _adapters_problem(settings: ServeSettings) -> str | None:
    try:
        adapters = parse_adapters(settings.adapters)
        for each in adapters:
            parse_source(each.source)
    except (InvalidJson, InvalidSource) as error:
        return f"--adapters: {error}."
    if adapters and settings.engine in ("builtin", "custom"):
        return f"--adapters: the engine {settings.engine} applies none; take vllm, sglang or llamacpp."
    if settings.adapters_state and settings.engine not in ("vllm", "sglang"):
        return f"--adapters-state: the engine {settings.engine} loads none while it runs; take vllm or sglang."
    if adapters and settings.adapters_state:
        return "--adapters and --adapters-state: adapters are those of the one or of the other."
    return None


def _missing_adapter(settings: ServeSettings) -> str | None:
    for each in parse_adapters(settings.adapters):
        if find_adapter(parse_source(each.source), Path(settings.models_dir)) is None:
            return f"The adapter {each.source} is not in {settings.models_dir}: run ams-pod download first."
    return None


def _missing(source: Source, settings: ServeSettings) -> str:
    if isinstance(source, FileSource) and Path(source.path).is_dir() and local_gguf(source) is None:
        return f"{source.path} holds no config.json, so it is not a model's folder."  # no download would help
    return f"The weights of {settings.source} are not in {settings.models_dir}: run ams-pod download first."


async def serve(settings: ServeSettings, folder: Path) -> Failure | None:
    """Serve until SIGTERM or SIGINT (None), or until the model fails (why)."""
    pod = ModelPod(settings, folder)
    runner = web.AppRunner(
        make_app(pod), handler_cancellation=True, access_log=None, keepalive_timeout=_KEEPALIVE_SECONDS
    )
    await runner.setup()
    collecting: asyncio.Task[None] | None = None
    try:
        await _listen(runner, settings)
        pod.start()
        collecting = asyncio.create_task(_collect(pod))
        ending = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ending.set)
        pod.failure.add_done_callback(lambda _: ending.set())
        await ending.wait()
        if pod.failure.done():
            return pod.failure.result()
        log.info("draining %d requests", pod.active)
        await pod.drain()
        return None
    finally:
        if collecting is not None:
            collecting.cancel()
        await runner.cleanup()
        if settings.uds:
            with contextlib.suppress(OSError):
                os.unlink(settings.uds)


async def _collect(pod: ModelPod) -> None:
    """Reference cycles: nothing of what was loaded is gone through again, and what comes later is now and then."""
    await pod.settled.wait()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LOADED_SECONDS):
            await asyncio.sleep(1.0)  # those that waited for the model are let in first
            await pod.idle.wait()
    leave_out_what_is_here()
    if pod.settings.engine != "builtin":  # which has tensors, that a cycle could hold where no memory is seen to grow
        gc.disable()
    await collect_rarely(time.monotonic, asyncio.sleep, resident_bytes)


async def _listen(runner: web.AppRunner, settings: ServeSettings) -> None:
    if settings.uds:
        await web.UnixSite(runner, settings.uds).start()
        log.info("%s listens on %s", settings.name, settings.uds)
        return
    site = web.TCPSite(runner, settings.host, settings.port, backlog=1024)
    await site.start()
    log.info("%s listens on %s", settings.name, runner.addresses[0])
