"""What HTTP takes: the same requests of our engine in this process, and of a pod that is asked over HTTP, by turns.

    python benchmarks/over_http.py --model FOLDER --json benchmarks/results/over_http.json

FOLDER is a model as `ams up` keeps it. Prompts are token ids, the same for both, so that both read as many tokens and
make as many; prefix caches are off. In this process nothing is made of the tokens. The pod streams them as chat
completions do, its client is this process, and all share the machine's cores. A ratio is of one round, in which one way
follows the other; told is their median, and what the pod's other threads and the client computed for a token.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import engine_servers as servers
import streams as load
import uvloop
from ams_common.pod_settings import ServeSettings
from ams_pod.engines.builtin.loading import load_engine
from ams_pod.engines.port import Prepared, Sampling, TokenEvent

CONTEXT = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--streams", default="1,8,32")
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    counts = [int(count) for count in arguments.streams.split(",")]
    report: dict[str, Any] = {"machine": servers.machine(), "rows": {}}
    alone = Alone(arguments.model, max(counts))
    with tempfile.TemporaryDirectory() as folder:
        server = servers.ours(arguments.model, max(counts), caches=False)
        server.start(Path(folder) / "log")
        try:
            for count in counts:
                report["rows"][count] = row = asyncio.run(
                    compare(alone, server, count, arguments.tokens, arguments.rounds, arguments.temperature)
                )
                print(
                    f"{count:3} streams: alone {row['alone']:.0f} tokens/s, over HTTP {row['over_http']:.0f}, "
                    f"{row['ratio']:.3f} x ({row['least']:.2f} to {row['most']:.2f}); "
                    f"{row['beside_us']:.0f} us of a token beside computing",
                    flush=True,
                )
        finally:
            server.stop()
    if arguments.json:
        servers.save(arguments.json, report)


class Alone:
    """The engine in this process."""

    def __init__(self, folder: Path, rows: int) -> None:
        settings = ServeSettings(
            name="m", source="file:///", concurrent_requests=rows, context_tokens=CONTEXT, prefix_cache_tokens=0
        )
        self._engine: Any = load_engine(folder, settings, _publish, lambda phase, percent: None)

    def prompts(self, count: int) -> list[list[int]]:
        return [
            list(self._engine.prepare_chat([{"role": "user", "content": load.prompt(number)}]).ids)
            for number in range(count)
        ]

    def measure(self, prompts: Sequence[Sequence[int]], tokens: int, temperature: float) -> float:
        """Tokens a second, prompts included in the time."""
        made: list[int] = []
        began = time.perf_counter()
        for ids in prompts:
            sampling = Sampling(tokens, temperature=temperature, ignore_eos=True)
            self._engine.submit(Prepared(ids), sampling, lambda event: made.append(event.token))
        while self._engine.core.step():
            pass
        return len(made) / (time.perf_counter() - began)


def _publish(events: Sequence[TokenEvent]) -> None:
    for event in events:
        event.ticket.sink(event)


async def compare(
    alone: Alone, server: servers.Server, count: int, tokens: int, rounds: int, temperature: float
) -> dict[str, float]:
    assert server.process is not None
    prompts = alone.prompts(count)
    speeds: dict[str, list[float]] = {"alone": [], "http": []}
    beside = []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        for number in range(rounds + 1):
            for way in ("alone", "http") if number % 2 else ("http", "alone"):
                if way == "alone":
                    speed = alone.measure(prompts, tokens, temperature)
                else:
                    before = _beside(server.process.pid)
                    speed = await _over_http(session, server, prompts, tokens, temperature)
                    spent = _beside(server.process.pid) - before
                    if number:
                        beside.append(spent / count / tokens * 1e6)
                if number:  # the first round warms up
                    speeds[way].append(speed)
    ratios = [over / bare for bare, over in zip(speeds["alone"], speeds["http"], strict=True)]
    return {
        "alone": statistics.median(speeds["alone"]),
        "over_http": statistics.median(speeds["http"]),
        "ratio": statistics.median(ratios),
        "least": min(ratios),
        "most": max(ratios),
        "beside_us": statistics.median(beside),
    }


async def _over_http(
    session: aiohttp.ClientSession, server: servers.Server, prompts: Sequence[Sequence[int]], tokens: int, heat: float
) -> float:
    async def ask(ids: Sequence[int]) -> None:
        body = {
            "model": server.model, "prompt": ids, "max_tokens": tokens, "temperature": heat, "ignore_eos": True,
            "stream": True,
        }  # fmt: skip
        async with session.post(f"{server.url}/v1/completions", json=body) as answer:
            answer.raise_for_status()
            async for _ in answer.content:
                pass

    began = time.perf_counter()
    await asyncio.gather(*map(ask, prompts))
    return len(prompts) * tokens / (time.perf_counter() - began)


def _beside(pid: int) -> float:
    """Seconds that the client, which is this thread, and the first thread of the pod, its event loop, have computed."""
    return time.thread_time() + int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) / 1e9


if __name__ == "__main__":
    uvloop.install()
    main()
