"""A pod whose model says what media it was given: a real HTTP server over an engine that needs no weights."""

import asyncio
import io
import json
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from ams_common.families import BY_NAME, Modality
from ams_common.pod_settings import ServeSettings
from ams_pod.engines.port import (
    PLAIN_CHAT,
    Capabilities,
    ChatOptions,
    Constraint,
    Degraded,
    EngineCounters,
    Feature,
    Finish,
    MemoryUsage,
    ModelInfo,
    Occupancy,
    Prepared,
    Publish,
    ReportPhase,
    Sampling,
    Sink,
    Ticket,
    TokenEvent,
    TokenLogprobs,
)
from ams_pod.media.items import Audio, Image, Video
from ams_pod.serve.app import make_app
from ams_pod.serve.pod import ModelPod
from ams_pod.shares import EVERYBODY, Share

GIB = 1 << 30


def likely(token: int, top: int) -> TokenLogprobs:
    """The token itself is the likeliest, those that follow it in Unicode the next ones."""
    return TokenLogprobs(token, -0.5, tuple((token + rank, -0.5 - rank) for rank in range(top)))


class Characters:
    """Each token is a character."""

    def push(self, token: int) -> str:
        return chr(token)


def told(messages: Sequence[dict[str, Any]]) -> str:
    """Messages in words: `user: <image 32x24> what is this`."""
    turns = []
    for message in messages:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        turns.append(f"{message['role']}: " + " ".join(map(_told_part, parts)))
    return "; ".join(turns)


def _told_part(part: dict[str, Any]) -> str:
    match part[part["type"]]:
        case str() as text:
            return text
        case Image(pixels=pixels):
            return f"<image {pixels.shape[1]}x{pixels.shape[0]}>"
        case Audio() as audio:
            return f"<audio {audio.seconds:.1f}s at {audio.rate}>"
        case Video(frames=frames, audio=sound) as video:
            heard = f" with {sound.seconds:.0f}s of sound" if sound is not None else ""
            return f"<video {len(frames)} of {frames.shape[2]}x{frames.shape[1]}, {video.seconds:.0f}s{heard}>"
    raise AssertionError(f"{part} is no part of a message")


@dataclass
class EchoEngine:
    """Answers at once with what it was asked, or as `degraded` or `error` say. `hold` keeps answers back."""

    info: ModelInfo
    capabilities: Capabilities
    publish: Publish
    degraded: Degraded | None = None
    error: BaseException | None = None
    hold: bool = False
    says: str | None = None  # what it answers instead
    options: list[ChatOptions] = field(default_factory=list)
    messages: list[Sequence[dict[str, Any]]] = field(default_factory=list)
    finish: Finish = "length"
    freed: int = 0
    prepared: list[str] = field(default_factory=list)
    tickets: list[Ticket] = field(default_factory=list)
    submitted: asyncio.Event = field(default_factory=asyncio.Event)
    counters: EngineCounters = field(default_factory=EngineCounters)
    on_prepare: Callable[[Sequence[dict[str, Any]]], None] = lambda messages: None
    _stopped: threading.Event = field(default_factory=threading.Event)

    def prepare_chat(self, messages: Sequence[dict[str, Any]], options: ChatOptions = PLAIN_CHAT) -> Prepared:
        self.on_prepare(messages)
        self.messages.append(messages)
        self.options.append(options)
        text = told(messages)
        self.prepared.append(text)
        return Prepared([ord(c) for c in text], media_items=text.count("<"))

    def prepare_text(self, text: str) -> Prepared:
        return Prepared([ord(c) for c in text])

    def prepare_ids(self, ids: Sequence[int]) -> Prepared:
        return Prepared(list(ids))

    def prepare_pair(self, query: str, text: str) -> Prepared:
        return Prepared([ord(c) for c in query + text])

    def prepare_constraint(self, constraint: Constraint) -> Any:
        return constraint

    def detokenizer(self, after: Sequence[int] = (), *, special: bool = False) -> Characters:
        return Characters()

    def token_bytes(self, token: int) -> bytes:
        return chr(token).encode()

    def text_of(self, ids: Sequence[int]) -> str:
        return "".join(map(chr, ids))

    def submit(
        self, prepared: Prepared, sampling: Sampling, sink: Sink, share: Share = EVERYBODY, cache_salt: str = ""
    ) -> Ticket:
        ticket = Ticket(prepared, sampling, sink, 0.0, share, cache_salt, started_at=0.0)
        self.tickets.append(ticket)
        self.submitted.set()
        if not self.hold:
            self.answer(ticket)
        return ticket

    def answer(self, ticket: Ticket) -> None:
        ticket.degraded = self.degraded
        if self.error is not None:
            events = [TokenEvent(ticket, None, "failed", self.error)]
        elif self.degraded == "simplified":
            events = [TokenEvent(ticket, None, "stop")]
        else:
            ids = ticket.prepared.ids if self.says is None else [ord(c) for c in self.says]
            tokens = ids[: ticket.sampling.max_new_tokens]
            sampling = ticket.sampling
            if sampling.prompt_logprobs is not None:
                told = [likely(token, sampling.prompt_logprobs) for token in ticket.prepared.ids]
                ticket.prompt_logprobs = [None, *told[1:]]
            asked = sampling.logprobs
            events = [
                TokenEvent(ticket, token, logprobs=None if asked is None else likely(token, asked)) for token in tokens
            ]
            if self.finish == "length" or len(tokens) < len(ids):
                events[-1] = replace(events[-1], finish="length")
            else:
                events.append(TokenEvent(ticket, None, self.finish))
        self.publish(events)

    def cancel(self, ticket: Ticket) -> None:
        ticket.cancelled = True

    def occupancy(self) -> Occupancy:
        return Occupancy()

    def memory(self) -> MemoryUsage:
        return MemoryUsage("cpu", 4 * GIB, 3 * GIB, GIB - GIB // 4 * self.freed)

    def free_memory(self) -> None:
        self.freed += 1

    def run(self) -> None:
        self._stopped.wait()

    def stop(self) -> None:
        self._stopped.set()


def info_of(family: str, **fields: Any) -> ModelInfo:
    values = {
        "architecture": "Echo", "family": family, "device": "cuda", "precision": "bfloat16", "parameters": 1,
        "weights_bytes": 1, "context_tokens": 100_000,
        "cache_bytes_per_token": 1, "concurrent_requests": 4, "engine": "echo",
    }  # fmt: skip
    return ModelInfo(**(values | fields))


def capabilities_of(family: str, features: Sequence[Feature] = ("raw-prompts",)) -> Capabilities:
    order: tuple[Modality, ...] = ("text", "image", "audio", "video")
    return Capabilities(tuple(each for each in order if each in BY_NAME[family].modalities), frozenset(features))


@dataclass
class EchoPod:
    url: str
    pod: ModelPod
    engine: EchoEngine
    client: aiohttp.ClientSession
    temp: Path

    async def post(self, path: str, value: Any) -> tuple[int, Any]:
        """(status, body) of a POST of JSON."""
        data, headers = io.BytesIO(json.dumps(value).encode()), {"Content-Type": "application/json"}
        async with self.client.post(self.url + path, data=data, headers=headers) as response:
            text = await response.text()
            return response.status, json.loads(text) if response.content_type == "application/json" else text

    async def generate(self, **fields: Any) -> tuple[int, Any]:
        return await self.post("/generate", {"prompt": "what", "max_new_tokens": 1000} | fields)


@asynccontextmanager
async def echo_pod(
    folder: Path,
    family: str = "omni",
    *,
    info: dict[str, Any] | None = None,
    features: Sequence[Feature] = ("raw-prompts",),
    **settings: Any,
) -> AsyncIterator[EchoPod]:
    """A ready pod on loopback."""
    values = {"name": "echo", "source": f"file://{folder}", "temp_dir": str(folder / "temp")} | settings
    ready: asyncio.Future[EchoEngine] = asyncio.get_running_loop().create_future()
    loop = asyncio.get_running_loop()

    def open_engine(_: Path, given: ServeSettings, publish: Publish, report: ReportPhase, *__: object) -> EchoEngine:
        engine = EchoEngine(info_of(family, **(info or {})), capabilities_of(family, features), publish)
        loop.call_soon_threadsafe(ready.set_result, engine)
        return engine

    pod = ModelPod(ServeSettings(**values), folder, open_engine)
    runner = web.AppRunner(make_app(pod), handler_cancellation=True, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    pod.start()
    engine = await ready
    while pod.engine is None:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    try:
        async with aiohttp.ClientSession() as client:
            yield EchoPod(f"http://127.0.0.1:{runner.addresses[0][1]}", pod, engine, client, folder / "temp")
    finally:
        await runner.cleanup()
        await pod.drain()
