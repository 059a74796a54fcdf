"""What a cache of prompts is worth, beside peers: turns of a long chat, many users of one prompt, an agent's loop.

    python benchmarks/prefixes.py --model FOLDER --gguf FILE --peers DIR --json benchmarks/results/prefixes.json

FOLDER, FILE and DIR as of engine.py. All servers have their caches on; ours runs once more with its cache off. They run
at once, all but the measured one stopped (SIGSTOP); rounds are interleaved; figures are medians over rounds. Each round
has texts of its own, so that nothing is found of the round before.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import engine_servers as servers
import streams as load
import uvloop

TURNS, USERS, CALLS = 4, 32, 12
LONG = 1500
_WORDS = (
    "river", "stone", "light", "garden", "window", "paper", "letter", "market", "bridge", "winter", "summer", "morning",
    "evening", "mountain", "forest", "village", "kitchen", "doctor", "teacher", "captain", "soldier", "farmer",
    "painter", "singer", "table", "chair", "bottle", "mirror", "candle", "basket", "hammer", "needle",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--gguf", type=Path, help="GGUF of the same model, for llama-server")
    parser.add_argument("--peers", type=Path, default=Path.home() / ".cache" / "ai-model-server-bench")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="parts of server names, separated by commas")
    parser.add_argument("--threads", type=int, default=len(__import__("os").sched_getaffinity(0)))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        running = _start(arguments, Path(folder))
        try:
            report = _measure(running, arguments.rounds)
        finally:
            for server in running:
                server.stop()
    print("\n" + table(report))
    if arguments.json:
        servers.save(arguments.json, report)


def _start(arguments: argparse.Namespace, folder: Path) -> list[servers.Server]:
    gguf = folder / "model-bf16.gguf"
    without = servers.ours(arguments.model, USERS)
    without.name += ", cache off"
    without.command += ["--prefix-cache-tokens", "0"]
    makers: list[Callable[[], Iterable[servers.Server]]] = [
        lambda: [servers.ours(arguments.model, USERS), without],
        lambda: [
            replace(each, extra={"ignore_eos": True, "cache_prompt": True})
            for each in servers.llama(arguments.peers, gguf, [USERS], arguments.threads, "bf16")
        ],
        lambda: [_caching(servers.vllm(arguments.peers, arguments.model, USERS))],
    ]
    if arguments.gguf:
        servers.bfloat16_gguf(arguments.gguf, gguf)
    wanted = [part for part in arguments.only.split(",") if part]
    running: list[servers.Server] = []
    for make in makers:
        try:
            for server in make():
                if wanted and not any(part in server.name for part in wanted):
                    continue
                server.start(folder / f"{len(running)}.log")
                running.append(server)
                asyncio.run(load.measure(server.url, [load.body(server.model, "hello", 8, server.extra)]))
                server.pause()
                print(f"started {server.name} {server.version}", flush=True)
        except (servers.Absent, RuntimeError) as reason:
            print(f"skipped: {reason}", flush=True)
    return running


def _caching(server: servers.Server) -> servers.Server:
    server.command.remove("--no-enable-prefix-caching")
    server.command.append("--enable-prefix-caching")
    return server


def text(seed: int, words: int) -> str:
    """About a token a word."""
    return " ".join(
        _WORDS[(seed * 7919 + at * at * 31 + at * 17 + (seed + 3) * at) % len(_WORDS)] for at in range(words)
    )


async def _answer(
    session: aiohttp.ClientSession, server: servers.Server, messages: list[dict[str, Any]], new: int
) -> load.Stream:
    body = load.body(server.model, "", new, server.extra) | {"messages": messages}
    result = await load.stream(session, server.url, body)
    if result.error or not result.arrivals:
        raise RuntimeError(f"{server.name}: {result.error or 'no answer'}")
    return result


async def chat_turns(server: servers.Server, seed: int) -> list[float]:
    """Seconds to the first token of each turn of a chat that begins with 1,500 tokens."""
    messages = [{"role": "user", "content": f"{text(seed, LONG)} What is this about?"}]
    seconds = []
    async with aiohttp.ClientSession() as session:
        for turn in range(TURNS):
            answer = await _answer(session, server, messages, 32)
            seconds.append(answer.first)
            messages += [
                {"role": "assistant", "content": answer.text},
                {"role": "user", "content": f"And {text(seed + turn + 1, 12)}?"},
            ]
    return seconds


async def many_users(server: servers.Server, seed: int) -> list[float]:
    """32 at once with one system prompt of 1,500 tokens: seconds to the median first token, and to the last answer."""
    system = {"role": "system", "content": text(seed, LONG)}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        began = time.perf_counter()
        answers = await asyncio.gather(
            *(
                _answer(session, server, [system, {"role": "user", "content": f"{text(seed + user, 20)}?"}], 16)
                for user in range(USERS)
            )
        )
        return [statistics.median(each.first for each in answers), time.perf_counter() - began]


async def agent_loop(server: servers.Server, seed: int) -> list[float]:
    """An agent's session: 600 tokens of instructions, then 12 calls whose results come back; seconds in all."""
    messages = [
        {"role": "system", "content": text(seed, 600)},
        {"role": "user", "content": f"Find {text(seed, 8)}."},
    ]
    async with aiohttp.ClientSession() as session:
        began = time.perf_counter()
        for call in range(CALLS):
            answer = await _answer(session, server, messages, 24)
            messages += [
                {"role": "assistant", "content": answer.text},
                {"role": "user", "content": f"Result: {text(seed + call, 60)}"},
            ]
        return [time.perf_counter() - began]


LOADS = {"chat turns": chat_turns, "many users": many_users, "agent loop": agent_loop}


def _measure(running: list[servers.Server], rounds: int) -> dict[str, Any]:
    taken: dict[str, dict[str, list[list[float]]]] = {server.name: {name: [] for name in LOADS} for server in running}
    for number in range(rounds):
        for place, (name, measured) in enumerate(LOADS.items()):
            for server in running:
                server.go_on()
                try:
                    figures = uvloop.run(measured(server, 1000 * number + 100 * place + 1))
                    taken[server.name][name].append(figures)
                    print(
                        f"{number} {name:12} {server.name:40} {' '.join(f'{each:7.2f}' for each in figures)}",
                        flush=True,
                    )
                except RuntimeError as error:
                    print(f"{number} {name:12} {error}", flush=True)
                server.pause()
    return {
        "machine": servers.machine(),
        "servers": {
            server.name: {"version": server.version}
            | {
                name: [statistics.median(column) for column in zip(*runs, strict=True)]
                for name, runs in taken[server.name].items()
                if runs
            }
            for server in running
        },
    }


def table(report: dict[str, Any]) -> str:
    """As Markdown."""
    lines = [
        "| server | first token of turns 1 to 4 | 32 users: median first token, all done | agent's 12 calls |",
        "|---|---|---|---|",
    ]
    for name, found in report["servers"].items():
        turns = " / ".join(f"{each:.2f}" for each in found.get("chat turns", ())) or "–"
        users = ", ".join(f"{each:.1f}" for each in found.get("many users", ())) or "–"
        loop = ", ".join(f"{each:.1f}" for each in found.get("agent loop", ())) or "–"
        lines.append(f"| {name} {found['version']} | {turns} s | {users} s | {loop} s |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
