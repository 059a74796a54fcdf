"""The adapter of engines of other makes in front of a scripted one: beside, or as a child."""

import asyncio
import json
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web
from ams_common.lifecycle import Phase
from ams_common.pod_settings import ServeSettings
from ams_pod.engines.openai.engine import OtherEngine
from ams_pod.engines.openai.loading import load
from ams_pod.engines.port import Prepared, Sampling, Ticket, TokenEvent
from fake_engine import FakeEngine, Script

FAKE = Path(__file__).with_name("fake_engine.py")


class Answers:
    """Events of requests, as the pod's event loop would take them."""

    def __init__(self) -> None:
        self.events: dict[Ticket, list[TokenEvent]] = {}
        self.phases: list[tuple[Phase, float | None]] = []
        self._news = threading.Condition()

    def publish(self, events: list[TokenEvent]) -> None:
        with self._news:
            for event in events:
                self.events.setdefault(event.ticket, []).append(event)
            self._news.notify_all()

    def report(self, phase: Phase, percent: float | None) -> None:
        self.phases.append((phase, percent))

    def until(self, done: Callable[[], bool], seconds: float = 20.0) -> None:
        with self._news:
            assert self._news.wait_for(done, seconds), self.events

    def ended(self, ticket: Ticket) -> bool:
        return any(event.finish for event in self.events.get(ticket, ()))

    def wait(self, ticket: Ticket, seconds: float = 20.0) -> list[TokenEvent]:
        self.until(lambda: self.ended(ticket), seconds)
        return self.events[ticket]


@dataclass
class Opened:
    engine: OtherEngine
    answers: Answers
    fake: FakeEngine | None = None

    def ask(self, tokens: int = 5, ids: tuple[int, ...] = (1, 2, 3), **sampling: Any) -> Ticket:
        return self.submit(self.engine.prepare_ids(ids), tokens, **sampling)

    def submit(self, prepared: Prepared, tokens: int = 1, **sampling: Any) -> Ticket:
        return self.engine.submit(prepared, Sampling(tokens, **sampling), lambda event: None)

    async def wait(self, ticket: Ticket, seconds: float = 20.0) -> list[TokenEvent]:
        return await asyncio.to_thread(self.answers.wait, ticket, seconds)

    async def answer(self, *arguments: Any, **sampling: Any) -> list[TokenEvent]:
        return await self.wait(self.ask(*arguments, **sampling))


@asynccontextmanager
async def opened(folder: Path, settings: ServeSettings, fake: FakeEngine | None = None) -> AsyncIterator[Opened]:
    answers = Answers()
    made: list[Any] = []
    loop = asyncio.get_running_loop()

    def run() -> None:
        try:
            engine = load(folder, settings, answers.publish, answers.report, loop)
        except BaseException as error:
            made.append(error)
            return
        made.append(engine)
        try:
            engine.run()
        except BaseException as error:
            made.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while not made:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    if isinstance(made[0], BaseException):
        raise made[0]
    try:
        yield Opened(made[0], answers, fake)
    finally:
        made[0].stop()
        await asyncio.to_thread(thread.join, 10.0)
        assert not thread.is_alive()


@asynccontextmanager
async def beside(folder: Path, engine: Any = "vllm", settings: Any = None, **script: Any) -> AsyncIterator[Opened]:
    """The adapter in front of a fake engine that runs beside."""
    fake = FakeEngine(Script(dialect=engine, **script))
    runner = web.AppRunner(fake.app(), access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    values = ServeSettings(
        name="m", source=f"file://{folder}", engine=engine, engine_address=f"http://127.0.0.1:{runner.addresses[0][1]}",
        concurrent_requests=4, **(settings or {}),
    )  # fmt: skip
    try:
        async with opened(folder, values, fake) as found:
            yield found
    finally:
        await runner.cleanup()


def child(folder: Path, *flags: str, **script: Any) -> ServeSettings:
    """Settings for a fake engine that is started and supervised."""
    command = [sys.executable, str(FAKE), "--port", "{port}", "--script", json.dumps(script), *flags]
    return ServeSettings(
        name="m", source=f"file://{folder}", engine="vllm", engine_command=json.dumps(command), concurrent_requests=40
    )
