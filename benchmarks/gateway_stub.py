"""A pod whose streams tick: `python gateway_stub.py PORT`. It writes to sockets itself, to cost little beside a proxy.

`POST` with prompt `idle` gets one event and then silence; prompt `ticks RATE` gets RATE events a second, each with the
moment it was written (`time.monotonic_ns`, one clock for all processes of a machine), until the client leaves.
"""

import asyncio
import random
import sys
import time

import uvloop

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_READY = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 17\r\n\r\n{"phase":"ready"}'


class Pod(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._received = b""

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator or (head.startswith(b"POST") and not body.endswith(b"}")):
            return
        self._received = b""
        if head.startswith(b"GET"):
            self._transport.write(_READY)
            return
        self._transport.write(_HEAD)
        _, _, wish = body.partition(b"ticks ")
        if wish:
            self._interval = 1 / float(wish.split(b'"')[0])
            self._next = self._loop.time() + random.random() * self._interval
            self._timer = self._loop.call_at(self._next, self._tick)
        else:
            self._write_event()

    def _tick(self) -> None:
        # Each stream keeps its own moments, whatever was late: else all that were would come together from then on.
        missed = int(max(0.0, self._loop.time() - self._next) / self._interval)
        self._next += (1 + missed) * self._interval
        self._timer = self._loop.call_at(self._next, self._tick)
        self._write_event()

    def _write_event(self) -> None:
        event = b"data: %d\n\n" % time.monotonic_ns()
        self._transport.write(b"%x\r\n%b\r\n" % (len(event), event))

    def connection_lost(self, error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Pod, "127.0.0.1", port, backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
