"""The first process of several: starts the others, ends them, starts one again that died, and tells what all do."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import BaseConnector, ClientError, ClientSession, ClientTimeout, UnixConnector, web
from ams_common.demand import DemandReport
from ams_common.errors import ApiError
from ams_common.outside import InvalidJson, read_json

from ams_gateway.front.access import Access
from ams_gateway.front.responses import JSON, error_response
from ams_gateway.processes.merging import merged_demand, merged_metrics
from ams_gateway.processes.plan import VARIABLE, Part, may_restart
from ams_gateway.settings import GatewaySettings, listed

logger = logging.getLogger("ams_gateway")

_ANSWER_SECONDS = 35.0  # a report of demand is held back for up to 30 s
_PAUSE_SECONDS = 1.0
_KILL_SECONDS = 10.0
_MOST_BYTES = 64 << 20
_FORWARDED = ("Accept", "Host", "Origin")


async def supervise(settings: GatewaySettings) -> int:
    """Run `settings.processes` processes until SIGINT or SIGTERM; the exit status.

    They are this command again, each with a variable that says which it is. OSError where the metrics' port is taken:
    the port itself can be shared, also with another gateway.
    """
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    with tempfile.TemporaryDirectory(prefix="ams-gateway-") as folder:
        parts = [Part(number, str(Path(folder) / f"{number}.sock")) for number in range(settings.processes)]
        workers = [_Worker(part, settings.grace_seconds) for part in parts]
        async with _Monitoring(settings, parts):
            running = [asyncio.create_task(worker.run(stop)) for worker in workers]
            logger.info("%d processes serve port %d", len(parts), settings.port)
            return max(await asyncio.gather(*running))


class _Worker:
    """One process, started again when it dies."""

    def __init__(self, part: Part, grace_seconds: float) -> None:
        self._part = part
        self._grace_seconds = grace_seconds

    async def run(self, stop: asyncio.Event) -> int:
        """Until `stop`, which is set where it can't be kept running; its exit status."""
        ends: list[float] = []
        while True:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._part.socket)
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *sys.orig_argv[1:],
                env={**os.environ, VARIABLE: self._part.variable},
                stdin=asyncio.subprocess.PIPE,  # whose end tells it that this process is gone
                process_group=0,  # a Ctrl-C is for this process, which ends the others
            )
            if await _first(process.wait(), stop):
                return await self._end(process)
            ends.append(time.monotonic())
            logger.error("process %d ended by itself, with status %s", self._part.number, process.returncode)
            if not may_restart(ends, time.monotonic()):
                logger.error("process %d keeps ending: the gateway stops", self._part.number)
                stop.set()
                return 1
            if await _first(asyncio.sleep(_PAUSE_SECONDS), stop):
                return 0

    async def _end(self, process: asyncio.subprocess.Process) -> int:
        """Let it finish its requests; what it doesn't end by itself is killed."""
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            return abs(await asyncio.wait_for(process.wait(), self._grace_seconds + _KILL_SECONDS))
        except TimeoutError:
            process.kill()
            await process.wait()
            return 1


async def _first(waiting: Coroutine[Any, Any, object], stop: asyncio.Event) -> bool:
    """Wait for either; whether it is `stop`."""
    ours, stopped = asyncio.create_task(waiting), asyncio.create_task(stop.wait())
    await asyncio.wait((ours, stopped), return_when=asyncio.FIRST_COMPLETED)
    for task in (ours, stopped):
        task.cancel()
    return stop.is_set()


class _Unanswered(Exception):
    """A process gave no answer."""


class _Monitoring:
    """The metrics' port: what each process would serve there, put together."""

    def __init__(self, settings: GatewaySettings, parts: list[Part]) -> None:
        self._settings = settings
        self._parts = parts
        self._access = Access(settings.host, listed(settings.allowed_hosts), listed(settings.allowed_origins))
        self._sessions: dict[int, ClientSession] = {}
        self._versions: dict[int, int] = {}  # of the demand that each process reported last
        self._runner = web.ServerRunner(web.Server(self._handle, access_log=None))

    async def __aenter__(self) -> None:
        for part in self._parts:
            connector: BaseConnector = UnixConnector(part.socket)
            self._sessions[part.number] = ClientSession(
                connector=connector, timeout=ClientTimeout(total=_ANSWER_SECONDS), auto_decompress=True
            )
        await self._runner.setup()
        await web.TCPSite(self._runner, self._settings.host, self._settings.metrics_port).start()

    async def __aexit__(self, *exception: object) -> None:
        await self._runner.cleanup()
        for session in self._sessions.values():
            await session.close()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path, _, query = request.raw_path.partition("?")
        try:
            self._access.admit(request.method, request.headers)
            if path == "/metrics":
                return await self._metrics(request)
            if path == "/internal/demand":
                return await self._demand(request, query)
            return await self._one(request)
        except _Unanswered:
            error = ApiError("overloaded", "A process of the gateway is not there yet, or not any more.", retry_after=1)
            return error_response(error, path, "")
        except ApiError as error:
            return error_response(error, path, "")

    async def _metrics(self, request: web.BaseRequest) -> web.Response:
        headers = {**_forwarded(request), "Accept": "text/plain"}
        answers = await asyncio.gather(
            *(self._ask(number, "GET", "/metrics", headers) for number in self._sessions), return_exceptions=True
        )
        pages = {
            number: answer[1].decode()
            for number, answer in zip(self._sessions, answers, strict=True)
            if not isinstance(answer, BaseException) and answer[0] == 200
        }
        if not pages:
            raise _Unanswered
        body, kind = await asyncio.to_thread(merged_metrics, pages, request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": kind})

    async def _demand(self, request: web.BaseRequest, query: str) -> web.Response:
        """All processes' reports, once one of them has news, where the caller knows the last ones."""
        headers = _forwarded(request)
        if self._versions and f"since={sum(self._versions.values())}" in query.split("&"):
            others = "&".join(part for part in query.split("&") if not part.startswith("since="))
            asked = [
                asyncio.ensure_future(
                    self._ask(
                        number, "GET", f"/internal/demand?{others}&since={self._versions.get(number, 0)}", headers
                    )
                )
                for number in self._sessions
            ]
            try:
                await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in asked:
                    task.cancel()
                await asyncio.gather(*asked, return_exceptions=True)
        answers = await asyncio.gather(
            *(self._ask(number, "GET", "/internal/demand", headers) for number in self._sessions)
        )
        try:
            reports = [read_json(body, DemandReport) for _, body, _ in answers]
        except InvalidJson:
            raise _Unanswered from None
        self._versions = {number: report.version for number, report in zip(self._sessions, reports, strict=True)}
        return web.Response(body=msgspec.json.encode(merged_demand(reports)), headers={"Content-Type": JSON})

    async def _one(self, request: web.BaseRequest) -> web.Response:
        """What one process answers: the first that isn't well, if there is one."""
        answers = await asyncio.gather(
            *(self._ask(number, request.method, request.raw_path, _forwarded(request)) for number in self._sessions)
        )
        status, body, kind = next((answer for answer in answers if answer[0] != 200), answers[0])
        return web.Response(status=status, body=body, headers={"Content-Type": kind})

    async def _ask(self, number: int, method: str, target: str, headers: Mapping[str, str]) -> tuple[int, bytes, str]:
        """(status, body, content type) of a process' answer."""
        try:
            async with self._sessions[number].request(method, f"http://localhost{target}", headers=headers) as answer:
                body = await answer.content.read(_MOST_BYTES)
                while not answer.content.at_eof() and len(body) < _MOST_BYTES:
                    body += await answer.content.read(_MOST_BYTES)
                return answer.status, body, answer.headers.get("Content-Type", JSON)
        except (ClientError, OSError, TimeoutError) as error:
            raise _Unanswered from error


def _forwarded(request: web.BaseRequest) -> dict[str, str]:
    return {name: request.headers[name] for name in _FORWARDED if name in request.headers}
