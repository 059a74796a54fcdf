"""Pods that misbehave on purpose, and a registry whose models get ready when a test says so."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from ams_common.errors import ApiError
from ams_common.lifecycle import Phase
from ams_common.names import resource_name
from ams_common.progress import Progress
from ams_gateway.registry.port import Backend, Model


@dataclass
class Received:
    """One request as a pod got it."""

    method: str
    target: str
    headers: dict[str, str]  # names in lower case
    body: bytes


class Exchange:
    """A request and the ways to answer it."""

    def __init__(self, request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.request = request
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        if self._writer.transport.is_closing():
            # uvloop's transports raise a RuntimeError then, where asyncio's leave it to drain() to say this
            raise ConnectionResetError("the gateway has left")
        self._writer.write(data)
        await self._writer.drain()

    async def answer(self, status: int, body: bytes, **headers: str) -> None:
        lines = [f"HTTP/1.1 {status} Fine", f"Content-Length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    async def json(self, status: int, value: Any, **headers: str) -> None:
        await self.answer(status, json.dumps(value).encode(), **({"Content_Type": "application/json"} | headers))

    async def start_stream(self) -> None:
        await self.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")

    async def chunk(self, data: bytes) -> None:
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def end_stream(self) -> None:
        await self.send(b"0\r\n\r\n")

    def cut(self) -> None:
        """End the connection at once, as a killed process does."""
        self._writer.transport.abort()

    async def until_client_is_gone(self) -> None:
        with suppress(ConnectionError):
            assert await self._reader.read(1) == b""


Behaviour = Callable[[Exchange], Awaitable[None]]


async def say_hello(exchange: Exchange) -> None:
    await exchange.json(200, {"response": "hello"}, X_AMS_Usage="prompt=3 completion=2")


class FakePod:
    """Answers each request with `behaviour`; counts connections and keeps what it received."""

    def __init__(self, behaviour: Behaviour = say_hello) -> None:
        self.behaviour = behaviour
        self.received: list[Received] = []
        self.connections = 0
        self.ended = asyncio.Semaphore(0)  # released for each connection that ended
        self.connected = asyncio.Event()
        self.got_request = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.port = 0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> "FakePod":
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        """Refuse connections and end those there are."""
        if self._server is not None:
            self._server.close()
        self.drop_connections()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()

    def drop_connections(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.connected.set()
        self._writers.add(writer)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while (request := await _read_request(reader)) is not None:
                self.received.append(request)
                self.got_request.set()
                await self.behaviour(Exchange(request, reader, writer))
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._writers.discard(writer)
            self.ended.release()
            self._tasks.discard(task)
            writer.close()


async def _read_request(reader: asyncio.StreamReader) -> Received | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.strip().split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("transfer-encoding") == "chunked":
        body = bytearray()
        while size := int(await reader.readuntil(b"\r\n"), 16):
            body += await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readexactly(2)
    else:
        body = bytearray(await reader.readexactly(int(headers.get("content-length", 0))))
    return Received(method, target, headers, bytes(body))


@dataclass(eq=False)
class Entry:
    """A model in the fake registry. `failure` is what waiting for it raises."""

    model: Model
    backends: list[Backend] = field(default_factory=list)
    progress: Progress = field(default_factory=lambda: Progress(phase=Phase.PENDING))
    failure: ApiError | None = None
    demand: int = 0  # how many wait now
    demanded: asyncio.Event = field(default_factory=asyncio.Event)
    withdrawn: asyncio.Event = field(default_factory=asyncio.Event)
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class FakeControls:
    """Controls that only note what they are told."""

    def __init__(self) -> None:
        self.did: list[tuple[str, str]] = []

    def start(self, model: Model) -> Progress:
        self.did.append(("start", model.name))
        return Progress(Phase.STARTING)

    def stop(self, model: Model) -> Progress:
        self.did.append(("stop", model.name))
        return Progress(Phase.DRAINING, message="stopped by hand")

    async def log(self, model: Model) -> str:
        return f"{model.name} says <b>hi</b>\n"


class FakeRegistry:
    """A Registry in a test's hands."""

    where = "static"

    def __init__(self) -> None:
        self.controls: Any = None
        self.entries: dict[str, Entry] = {}
        self.reported_unreachable: list[str] = []

    def add(self, name: str, *addresses: str, **model: Any) -> Entry:
        entry = self.entries[name] = Entry(Model(name=name, **model))
        for address in addresses:
            self.add_backend(name, address)
        return entry

    def add_backend(self, name: str, address: str) -> Backend:
        entry = self.entries[name]
        backend = Backend(id=f"{name}-{len(entry.backends)}", address=address)
        entry.backends.append(backend)
        entry.progress = Progress(phase=Phase.READY)
        self._change(entry)
        return backend

    def set_progress(self, name: str, progress: Progress) -> None:
        self.entries[name].progress = progress
        self._change(self.entries[name])

    def fail(self, name: str, error: ApiError) -> None:
        self.entries[name].failure = error
        self._change(self.entries[name])

    def models(self) -> Sequence[Model]:
        return [entry.model for _, entry in sorted(self.entries.items())]

    def find(self, name: str) -> Model | None:
        wanted = resource_name(name)
        for entry in self.entries.values():
            if wanted == entry.model.name or wanted in map(resource_name, entry.model.aliases):
                return entry.model
        return None

    def backends(self, model: Model) -> Sequence[Backend]:
        return self.entries[model.name].backends

    def progress(self, model: Model) -> Progress:
        return self.entries[model.name].progress

    async def wait_ready(self, model: Model) -> AsyncIterator[Progress]:
        entry = self.entries[model.name]
        entry.demand += 1
        entry.demanded.set()
        try:
            while not entry.backends:
                if entry.failure is not None:
                    raise entry.failure
                yield entry.progress
                await entry.changed.wait()
        finally:
            entry.demand -= 1
            entry.withdrawn.set()

    def unreachable(self, model: Model, backend: Backend) -> None:
        self.reported_unreachable.append(backend.id)

    def _change(self, entry: Entry) -> None:
        entry.changed.set()
        entry.changed = asyncio.Event()


@dataclass
class RawAnswer:
    status: int
    headers: dict[str, str]
    body: bytes


@asynccontextmanager
async def raw_connection(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def read_raw_answer(reader: asyncio.StreamReader) -> RawAnswer:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.strip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return RawAnswer(int(first.split(" ")[1]), headers, body)


def post(path: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", *headers]
    if not any(line.lower().startswith(("content-length", "transfer-encoding")) for line in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
