"""Attack a gateway: clients that stall, JSON bombs and a pod that never stops answering, all at once.

Prints the gateway's memory and how long `/health` takes meanwhile, beside nginx as a bare proxy where it is installed.
"""

import argparse
import asyncio
import gzip
import json
import multiprocessing
import shutil
import socket
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path

import gateway_processes as servers

_STALLED = 300
_STALLED_BYTES = 1_000_000
_BOMBS = 3
_SECONDS = 20.0


def _post(path: str, length: int, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", *headers]
    return "\r\n".join([*lines, f"Content-Length: {length}", "", ""]).encode()


async def _endless_pod(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers /ready, and everything else with 503 and chunks without end."""
    with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"GET"):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n" + b'{"phase":"ready"}')
                continue
            writer.write(b"HTTP/1.1 503 No\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
            while True:
                writer.write(b"100000\r\n" + b" " * (1 << 20) + b"\r\n")
                await writer.drain()
    writer.close()


async def _stall(port: int, statuses: list[int], ending: asyncio.Event) -> None:
    """Send most of a body at once, then a byte every two seconds."""
    with suppress(ConnectionError, asyncio.IncompleteReadError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        body = b'{"model":"m","x":"' + b"x" * (_STALLED_BYTES - 18)
        writer.write(_post("/v1/chat/completions", _STALLED_BYTES + 1000) + body)
        answer = asyncio.ensure_future(reader.readuntil(b"\r\n"))
        while not ending.is_set() and not answer.done():
            await asyncio.wait((answer,), timeout=2.0)
            writer.write(b"x")
        if answer.done():
            statuses.append(int(answer.result().split()[1]))
        answer.cancel()
        writer.close()


async def _bomb(port: int, bomb: bytes, statuses: list[int], ending: asyncio.Event) -> None:
    while not ending.is_set():
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(_post("/v1/chat/completions", len(bomb), "Content-Encoding: gzip") + bomb)
            statuses.append(int((await reader.readuntil(b"\r\n")).split()[1]))
            writer.close()


async def _drink(port: int, ending: asyncio.Event) -> None:
    """Take the endless pod's answer as fast as it comes."""
    with suppress(ConnectionError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(_post("/generate/m", 14) + b'{"prompt":"x"}')
        while not ending.is_set() and await reader.read(1 << 20):
            pass
        writer.close()


def _probe(port: int) -> list[float]:
    """Seconds of each request to /health, from a process that does nothing else."""
    waits = []
    until = time.monotonic() + _SECONDS
    while time.monotonic() < until:
        started = time.perf_counter()
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            while connection.recv(65536):
                pass
        waits.append(time.perf_counter() - started)
        time.sleep(0.02)
    return waits


async def _attack(process: servers.Process, clients: int) -> dict[str, object]:
    bomb = gzip.compress(b'{"model":"m","messages":[' + b"{}," * ((64 << 20) // 3) + b"{}]}")
    ending = asyncio.Event()
    stalled: list[int] = []
    bombs: list[int] = []
    before = most = process.resident_bytes()
    tasks = [asyncio.ensure_future(_stall(process.port, stalled, ending)) for _ in range(clients)]
    tasks += [asyncio.ensure_future(_bomb(process.port, bomb, bombs, ending)) for _ in range(_BOMBS)]
    tasks.append(asyncio.ensure_future(_drink(process.port, ending)))
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as prober:
        probing = asyncio.get_running_loop().run_in_executor(prober, _probe, process.port)
        while not probing.done():
            most = max(most, process.resident_bytes())
            await asyncio.sleep(0.05)
        waits = sorted(await probing)
    ending.set()
    await asyncio.wait(tasks, timeout=10)
    return {
        "server": process.name,
        "version": process.version,
        "stalled_clients": clients,
        "memory_before_mib": round(before / (1 << 20), 1),
        "memory_most_mib": round(most / (1 << 20), 1),
        "health_median_ms": round(1000 * statistics.median(waits), 1),
        "health_p99_ms": round(1000 * waits[int(len(waits) * 0.99)], 1),
        "health_longest_ms": round(1000 * waits[-1], 1),
        "stalled_answers": {str(status): stalled.count(status) for status in sorted(set(stalled))},
        "bomb_answers": {str(status): bombs.count(status) for status in sorted(set(bombs))},
    }


async def _run(folder: Path) -> list[dict[str, object]]:
    pod = await asyncio.start_server(_endless_pod, "127.0.0.1", 0)
    port = pod.sockets[0].getsockname()[1]
    results = []
    process = await asyncio.to_thread(servers.gateway, folder, port)
    try:
        # Without stalled clients first: they take the room that bombs need to be read at all.
        results += [await _attack(process, clients) for clients in (0, _STALLED)]
    finally:
        process.stop()
    if shutil.which("nginx") is None:
        print("nginx is not installed: no figures of a bare proxy")
    else:
        proxy = await asyncio.to_thread(servers.nginx_proxy_to, folder, port, asked="/ready")
        try:
            results += [await _attack(proxy, clients) for clients in (0, _STALLED)]
        finally:
            proxy.stop()
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="where the figures go")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = asyncio.run(_run(Path(folder)))
    for result in results:
        print(json.dumps(result, indent=2))
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
