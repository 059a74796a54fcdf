"""The engine over HTTP against its peers: 1, 8 and 32 streams, and a long prompt into 8 running ones.

    python benchmarks/engine.py --model FOLDER --gguf FILE --peers DIR --json benchmarks/results/engine.json

FOLDER is a model as `ams up` keeps it, FILE the GGUF it was converted from. All servers run at once, all but the
measured one stopped (SIGSTOP); rounds are interleaved; figures are medians over rounds. Same prompts, greedy, the same
number of new tokens; and again at temperature 0.7 with top_p 0.9, where answers may be shorter.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import engine_servers as servers
import streams as load
import uvloop

_GREEDY, _SAMPLED = "", " sampled"
_DEFAULT_SAMPLING = {"temperature": 0.7, "top_p": 0.9}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--gguf", type=Path, help="GGUF of the same model, for llama-server")
    parser.add_argument(
        "--kept",
        type=Path,
        help="folder that `ams download` makes of that GGUF: both serve the file's own weights, too",
    )
    parser.add_argument("--peers", type=Path, default=Path.home() / ".cache" / "ai-model-server-bench")
    parser.add_argument("--streams", default="1,8,32")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="parts of server names, separated by commas")
    parser.add_argument("--threads", type=int, default=len(__import__("os").sched_getaffinity(0)))
    parser.add_argument("--no-long-prompt", action="store_true", help="which takes minutes of a large model")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    counts = [int(count) for count in arguments.streams.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        running = _start(arguments, counts, Path(folder))
        try:
            report = _measure(
                running, counts, arguments.tokens, arguments.rounds, long_prompt=not arguments.no_long_prompt
            )
        finally:
            for server in running:
                server.stop()
    print("\n" + table(report))
    if arguments.json:
        servers.save(arguments.json, report)


def _start(arguments: argparse.Namespace, counts: list[int], folder: Path) -> list[servers.Server]:
    wanted = [part for part in arguments.only.split(",") if part]

    def is_wanted(name: str) -> bool:
        return not wanted or any(part in name for part in wanted)

    def unpacked() -> Iterable[servers.Server]:
        gguf = folder / "model-bf16.gguf"
        if arguments.gguf and is_wanted("llama-server bf16"):  # two bytes a weight: of a large model it takes long
            servers.bfloat16_gguf(arguments.gguf, gguf)
        return servers.llama(arguments.peers, gguf, counts, arguments.threads, "bf16")

    makers: list[Callable[[], Iterable[servers.Server]]] = [
        lambda: [servers.ours(arguments.model, max(counts), caches=False)],
        lambda: [servers.ours(arguments.kept, max(counts), " GGUF", caches=False)] if arguments.kept else [],
        unpacked,
        lambda: (
            servers.llama(arguments.peers, arguments.gguf, counts, arguments.threads, "GGUF") if arguments.kept else []
        ),
        lambda: [servers.sequential(arguments.model)],
        lambda: [servers.transformers_serve(arguments.peers, arguments.model)],
        lambda: [servers.vllm(arguments.peers, arguments.model, max(counts))],
    ]
    running: list[servers.Server] = []
    for make in makers:
        try:
            for server in make():
                if not is_wanted(server.name):
                    continue
                server.start(folder / f"{len(running)}.log")
                running.append(server)
                asyncio.run(load.measure(server.url, [_request(server, 0, 8)]))  # the first request compiles and fills
                server.pause()
                print(f"started {server.name} {server.version}", flush=True)
        except (servers.Absent, RuntimeError) as reason:
            print(f"skipped: {reason}", flush=True)
    return running


def _request(server: servers.Server, index: int, tokens: int, how: str = _GREEDY) -> dict[str, Any]:
    sampling = {} if how == _GREEDY else {**_DEFAULT_SAMPLING, "seed": index}
    return load.body(server.model, load.prompt(index), tokens, server.extra) | sampling


def _measure(
    running: list[servers.Server], counts: list[int], tokens: int, rounds: int, *, long_prompt: bool
) -> dict[str, Any]:
    figures: dict[str, dict[str, list[dict[str, float]]]] = {}
    for turn in range(rounds):
        for count in counts:
            for server in running:
                if server.streams not in (None, count):
                    continue
                if server.name.startswith("generate") and count > 1:
                    continue  # one at a time is as fast at any count
                for how in (_GREEDY, _SAMPLED):
                    server.go_on()
                    asked = [_request(server, i, tokens, how) for i in range(count)]
                    result = uvloop.run(load.measure(server.url, asked))
                    server.pause()
                    figures.setdefault(_family(server.name), {}).setdefault(f"{count}{how}", []).append(asdict(result))
                    print(f"round {turn + 1} {server.name:42} {count:3} streams{how:9} "
                          f"{result.tokens_per_second:7.1f} tokens/s first token {result.first_token_seconds:5.2f} s",
                          flush=True)  # fmt: skip
    interruptions = _interruptions(running, rounds) if long_prompt and 8 in counts else {}
    return {
        "machine": servers.machine(),
        "tokens": tokens,
        "rounds": rounds,
        "servers": {server.name: {"version": server.version, "flags": _flags(server.command)} for server in running},
        "streams": figures,
        "long_prompt": interruptions,
    }


def _interruptions(running: list[servers.Server], rounds: int) -> dict[str, list[dict[str, float]]]:
    result: dict[str, list[dict[str, float]]] = {}
    for turn in range(rounds):
        for server in running:
            if server.name.startswith("generate") or server.streams == 1 or server.streams == 8:
                continue
            server.go_on()
            try:
                eight = [_request(server, i, 200) for i in range(8)]
                long = load.body(server.model, load.long_prompt(2000), 8, server.extra)
                seen = uvloop.run(load.interrupt(server.url, eight, long, 15))
            except Exception as error:
                print(f"round {turn + 1} {server.name}: {error}", file=sys.stderr)
                continue
            finally:
                server.pause()
            result.setdefault(_family(server.name), []).append(asdict(seen) | {"added": seen.added})
            print(f"round {turn + 1} {server.name:42} long prompt adds {seen.added * 1e3:5.0f} ms to a gap of "
                  f"{seen.usual_gap * 1e3:4.0f} ms, its first token {seen.first_token_seconds:5.2f} s",
                  flush=True)  # fmt: skip
    return result


def _family(name: str) -> str:
    return name.split(" -np")[0]


def table(report: dict[str, Any]) -> str:
    """Markdown: tokens a second, median of rounds, and ratios of ours to each peer."""
    figures = report["streams"]
    loads = {name for rows in figures.values() for name in rows}
    counts = sorted(loads, key=lambda count: (int(count.split()[0]), count))
    names = [" streams, ".join(count.split()) if " " in count else f"{count} streams" for count in counts]
    head = "| server | " + " | ".join(names) + " | long prompt adds |"
    lines = [head, "|---" * (len(counts) + 2) + "|"]
    for name, rows in figures.items():
        cells = []
        for count in counts:
            values = [run["tokens_per_second"] for run in rows.get(count, [])]
            middle = statistics.median(values) if values else 0.0
            cells.append(f"{middle:.{0 if middle >= 20 else 1}f}" if values else "–")
        added = [seen["added"] for seen in report["long_prompt"].get(name, [])]
        cells.append(f"{statistics.median(added) * 1e3:.0f} ms" if added else "–")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _flags(command: Sequence[Any]) -> list[str]:
    """As told to a server, without where things lie on this machine."""
    return [Path(part).name if "/" in (part := str(each)) else part for each in command[1:]]


if __name__ == "__main__":
    main()
