"""One key with many long prompts beside one chat user of another key: what the chat user's first token waits for.

    python benchmarks/fairness.py --model FOLDER --json benchmarks/results/fairness.json

FOLDER is a model as `ams up` keeps it. `busy` long prompts (1,500 tokens, 128 new) run all the time; the chat user
sends a turn, reads the answer, waits about a second, and sends the next. Three ways in one run: the chat user alone;
both with keys of their own, as a gateway tells them; and both without keys, which is first come, first served, as it
was before there were keys (`before`: for so many seconds, as one turn waits for the whole queue). Tokens a second are
all that the engine computed, prompts and answers.

Beside seconds there are the pod's CPU seconds: what its threads computed between a question and its first token, which
is what the seconds would be on a machine where nobody else computes (with --threads 1).
"""

import argparse
import asyncio
import contextlib
import random
import re
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import engine_servers as servers
import streams as load
import uvloop

BUSY, CHAT = "k-busy", "k-chat"
_TRACE = re.compile(r"request (\S+) of key \S+: first token after \S+ s, waits (.*)")


@dataclass
class Turns:
    """Of the chat user: seconds to the first token, and what they were waited for; tokens a second of all."""

    first: list[float] = field(default_factory=list)
    first_cpu: list[float] = field(default_factory=list)
    tokens_per_cpu_second: float = 0.0
    waits: list[dict[str, float]] = field(default_factory=list)
    tokens_per_second: float = 0.0
    seconds: float = 0.0
    set_aside: float = 0.0
    errors: int = 0


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else 0.0


def cpu_seconds(pid: int) -> float:
    """What all threads of a process have computed."""
    total = 0
    for file in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):
            total += int(file.read_text().split()[0])
    return total / 1e9


class Bench:
    def __init__(self, server: servers.Server, log: Path, busy: int, new: int) -> None:
        assert server.process is not None
        self.url, self.model, self.log, self.pid = server.url, server.model, log, server.process.pid
        self.first_cpu: dict[str, float] = {}
        self.busy, self.new = busy, new
        self._serial = 0

    async def stream(self, session: aiohttp.ClientSession, key: str, content: str, tokens: int) -> load.Stream:
        self._serial += 1
        headers = {"X-Request-Id": f"{key or 'none'}-{self._serial}"}
        if key:
            headers["X-AMS-Key-Id"] = key
        body = load.body(self.model, content, tokens, {"ignore_eos": True})
        result, spent = load.Stream(time.perf_counter()), cpu_seconds(self.pid)
        try:
            async with session.post(f"{self.url}/v1/chat/completions", json=body, headers=headers) as response:
                if response.status != 200:
                    result.error = str(response.status)
                    return result
                async for line in response.content:
                    if line.startswith(b"data: {") and b'"content":"' in line and not line.count(b'"content":""'):
                        result.arrivals.append(time.perf_counter())
                        if key == CHAT and len(result.arrivals) == 1:
                            self.first_cpu[headers["X-Request-Id"]] = cpu_seconds(self.pid) - spent
        except aiohttp.ClientError as error:
            result.error = repr(error)
        result.text = headers["X-Request-Id"]
        return result

    async def keep_busy(self, session: aiohttp.ClientSession, key: str, number: int) -> None:
        turn = 0
        while True:
            turn += 1
            await self.stream(session, key, f"{number} {turn} " + load.long_prompt(1500), self.new)

    async def chat(
        self, session: aiohttp.ClientSession, key: str, tokens: int, turns: int, seconds: float = 1e6
    ) -> Turns:
        """So many turns, or as many as come to an end within `seconds`."""
        result, ids = Turns(), []
        started, before, spent = time.perf_counter(), await self.counted(session), cpu_seconds(self.pid)
        chance = random.Random(tokens)
        for turn in range(turns):
            content = f"{turn} " + load.long_prompt(tokens - 20)
            try:
                async with asyncio.timeout(started + seconds - time.perf_counter()):
                    seen = await self.stream(session, key, content, 8)
            except TimeoutError:
                break
            if seen.error or not seen.arrivals:
                result.errors += 1
                continue
            result.first.append(seen.first)
            if seen.text in self.first_cpu:
                result.first_cpu.append(self.first_cpu[seen.text])
            ids.append(seen.text)
            await asyncio.sleep(chance.uniform(0.5, 1.5))
        after = await self.counted(session)
        result.seconds = time.perf_counter() - started
        result.tokens_per_second = (after["tokens"] - before["tokens"]) / result.seconds
        result.tokens_per_cpu_second = (after["tokens"] - before["tokens"]) / (cpu_seconds(self.pid) - spent)
        result.set_aside = after["set_aside"] - before["set_aside"]
        traces = {m[1]: m[2] for m in _TRACE.finditer(self.log.read_text(errors="replace"))}
        result.waits = [
            {cause: float(value) for cause, value in (part.split("=") for part in traces[each].split())}
            for each in ids
            if each in traces
        ]
        return result

    async def counted(self, session: aiohttp.ClientSession) -> dict[str, float]:
        async with session.get(f"{self.url}/metrics") as response:
            text = await response.text()
        value = {m[1]: float(m[2]) for m in re.finditer(r"^(ams_pod_\w+) (\S+)$", text, re.M)}
        return {
            "tokens": value["ams_pod_prefill_tokens_total"] + value["ams_pod_decode_tokens_total"],
            "set_aside": value.get("ams_pod_set_aside_rows_total", 0.0),
        }

    async def beside(
        self, keys: tuple[str, str], lengths: list[int], turns: int, warm: float, seconds: float = 1e6
    ) -> dict[int, Turns]:
        """The chat user's turns beside the busy key's prompts."""
        timeout = aiohttp.ClientTimeout(total=3600, sock_read=1200)
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
            tasks = [asyncio.create_task(self.keep_busy(session, keys[0], number)) for number in range(self.busy)]
            try:
                if self.busy:
                    await asyncio.sleep(warm)
                return {length: await self.chat(session, keys[1], length, turns, seconds) for length in lengths}
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                await asyncio.sleep(2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--lengths", default="50,300,1000", help="tokens of a chat turn's prompt")
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--busy", type=int, default=64)
    parser.add_argument("--new", type=int, default=128, help="tokens of the long prompts' answers")
    parser.add_argument("--concurrent-requests", type=int, default=8)
    parser.add_argument("--warm", type=float, default=60.0, help="seconds before the chat user comes")
    parser.add_argument("--before", type=float, default=60.0, help="seconds without keys; 0 for none")
    parser.add_argument("--threads", type=int, help="of the pod; fewer than there are cores where others compute too")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    lengths = [int(each) for each in arguments.lengths.split(",")]
    server = servers.ours(arguments.model, arguments.concurrent_requests)
    server.command += ["--debug", "--request-timeout-seconds", "3600"]
    if arguments.threads:
        server.command += ["--threads", str(arguments.threads)]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "pod.log"
        server.start(log)
        try:
            report = _measure(server, log, arguments, lengths)
        finally:
            server.stop()
    report["machine"] = servers.machine()
    report["settings"] = {
        name: getattr(arguments, name) for name in ("turns", "busy", "new", "concurrent_requests", "before", "threads")
    }
    if arguments.json:
        servers.save(arguments.json, report)


def _measure(server: servers.Server, log: Path, arguments: argparse.Namespace, lengths: list[int]) -> dict[str, Any]:
    bench = Bench(server, log, 0, arguments.new)
    uvloop.run(bench.beside(("", CHAT), lengths[:1], 2, 0))  # the first request fills what is filled once
    alone = uvloop.run(bench.beside(("", CHAT), lengths, arguments.turns, 0))
    report: dict[str, Any] = {"alone": _told("alone", alone, alone)}
    bench.busy = arguments.busy
    keys = uvloop.run(bench.beside((BUSY, CHAT), lengths, arguments.turns, arguments.warm))
    report["keys"] = _told("keys", keys, alone)
    if arguments.before:
        before = uvloop.run(bench.beside(("", ""), lengths[:1], 10, arguments.warm, arguments.before))
        report["before"] = _told("before", before, alone)
    return report


def _told(way: str, found: dict[int, Turns], alone: dict[int, Turns]) -> dict[str, Any]:
    """Print it, and what to keep of it."""
    report = {}
    for length, turns in found.items():
        causes = sorted({cause for waits in turns.waits for cause in waits})
        mean = {cause: statistics.mean(waits.get(cause, 0.0) for waits in turns.waits) for cause in causes}
        report[str(length)] = {
            "first_p50": quantile(turns.first, 0.5), "first_p95": quantile(turns.first, 0.95),
            "first_cpu_p50": quantile(turns.first_cpu, 0.5), "first_cpu_p95": quantile(turns.first_cpu, 0.95),
            "turns": len(turns.first), "errors": turns.errors, "tokens_per_second": turns.tokens_per_second,
            "tokens_per_cpu_second": turns.tokens_per_cpu_second, "set_aside": turns.set_aside,
            "mean_wait_by_cause": mean,
        }  # fmt: skip
        print(
            f"{way:7} {length:5} tokens, {len(turns.first)} turns: first token "
            + _figures(turns.first, alone[length].first) + "; CPU " + _figures(turns.first_cpu, alone[length].first_cpu)
            + f"; {turns.tokens_per_second:.0f} tokens/s, {turns.tokens_per_cpu_second:.0f} a CPU second, "
            f"{turns.set_aside:.0f} set aside, {turns.errors} errors\n"
            f"        " + ", ".join(f"{cause} {seconds * 1e3:.0f} ms" for cause, seconds in mean.items()),
            flush=True,
        )  # fmt: skip
    return report


def _figures(values: list[float], alone: list[float]) -> str:
    p50, p95 = (quantile(values, share) for share in (0.5, 0.95))
    ratio = p95 / (quantile(alone, 0.95) or 1.0)
    return f"p50 {p50 * 1e3:.0f} ms, p95 {p95 * 1e3:.0f} ms ({ratio:.2f} x alone)"


if __name__ == "__main__":
    main()
