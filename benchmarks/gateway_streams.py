"""A client of many streams: `python gateway_streams.py PORT COUNT PROMPT SECONDS LIFE`, one JSON line at the end.

Where LIFE isn't 0, each stream is left after so many seconds, more or less, and another one begins in its place.
The line has the streams that were open, the events that came, and the delays in milliseconds from the stub's write to
this process' read. It reads a line `go` before it ends, so that memory can be looked at meanwhile.
"""

import asyncio
import json
import random
import re
import sys
import time

import uvloop

_EVENT = re.compile(rb"data: (\d+)")


class Stream(asyncio.Protocol):
    delays: list[int] = []  # noqa: RUF012 (one list for all streams)
    started = 0
    measuring = False

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._heard = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.write(self._request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        for written in _EVENT.findall(data):
            if not self._heard:
                self._heard = True
                Stream.started += 1
            elif Stream.measuring:
                Stream.delays.append(now - int(written))


def percentile(values: list[int], part: float) -> float:
    return round(values[min(int(len(values) * part), len(values) - 1)] / 1e6, 3) if values else 0.0


async def renew(port: int, request: bytes, transport: asyncio.Transport, life: float) -> None:
    """Leave a stream after its life, of which a part is over at the start, and begin another one; until cancelled."""
    await asyncio.sleep(life * random.random())
    while True:
        transport.close()
        transport, _ = await asyncio.get_running_loop().create_connection(lambda: Stream(request), "127.0.0.1", port)
        await asyncio.sleep(life * random.uniform(0.5, 1.5))


async def main(port: int, count: int, prompt: str, seconds: float, life: float) -> None:
    loop = asyncio.get_running_loop()
    body = json.dumps({"prompt": prompt, "stream": True}).encode()
    request = (
        b"POST /generate/m HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    transports = []
    for _ in range(count):
        transport, _ = await loop.create_connection(lambda: Stream(request), "127.0.0.1", port)
        transports.append(transport)
    deadline = loop.time() + 30
    while Stream.started < count and loop.time() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    renewing = [asyncio.ensure_future(renew(port, request, each, life)) for each in transports] if life else []
    await asyncio.sleep(1.0)
    Stream.measuring = True
    print(json.dumps({"open": Stream.started}), flush=True)
    await asyncio.sleep(seconds)
    Stream.measuring = False
    delays = sorted(Stream.delays)
    result = {
        "events": len(delays),
        "delay_ms": {"p50": percentile(delays, 0.5), "p99": percentile(delays, 0.99), "max": percentile(delays, 1.0)},
    }
    print(json.dumps(result), flush=True)
    for task in renewing:
        task.cancel()
    for transport in transports:
        transport.close()


if __name__ == "__main__":
    port, count, prompt, seconds, life = sys.argv[1:]
    uvloop.run(main(int(port), int(count), prompt, float(seconds), float(life)))
