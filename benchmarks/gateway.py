"""What the gateway costs: requests a second, latency added, CPU a request, and many streams, beside its peers.

    python benchmarks/gateway.py --rounds 5 --seconds 5

nginx answers as a stub pod, wrk sends. In each round every server is measured in turn, so that a busy moment of the
machine hits all; the table has medians. Peers live in environments of their own below --cache, made at the first run.
"""

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from gateway_processes import (
    Missing,
    Process,
    free_port,
    gateway,
    gateway_of_processes,
    gateway_with_keys,
    litellm,
    nginx_proxy,
    nginx_proxy_to,
    nginx_stub,
    redis_server,
    sglang_router,
)

HERE = Path(__file__).parent
_LIFE_SECONDS = 4.0
SERVERS = ("ams-gateway", "all-on", "all-on-redis", "processes", "nginx", "sglang-router", "litellm", "litellm-key")

WRK_SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
local image = tonumber(os.getenv("IMAGE_BYTES") or "0")
local content = '"What is the capital of France?"'
if image > 0 then
  local data = string.rep("iVBORw0KGgoAAAANSUhEUgAA", math.ceil(image / 24))
  content = '[{"type":"text","text":"What is this?"},{"type":"image_url","image_url":{"url":"data:image/png;base64,'
  content = content .. data .. '"}}]'
end
wrk.body = '{"model":"m","messages":[{"role":"user","content":' .. content .. '}],"max_tokens":20}'
local key = os.getenv("API_KEY") or ""
if key ~= "" then wrk.headers["Authorization"] = "Bearer " .. key end
local pause = tonumber(os.getenv("PAUSE_MS") or "0")
if pause > 0 then function delay() return pause end end
function done(summary, latency, requests)
  local bad = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.status
            + summary.errors.timeout
  io.write(string.format('RESULT {"requests": %d, "seconds": %f, "errors": %d, "p50_ms": %f, "p99_ms": %f}\\n',
    summary.requests, summary.duration / 1e6, bad, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
"""


def main() -> None:
    options = _options()
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed (apt-get install wrk)")
    skipped: dict[str, str] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ams-bench-")))
        script = folder / "post.lua"
        script.write_text(WRK_SCRIPT)
        try:
            stub = nginx_stub(folder / "stub")
        except Missing as error:
            sys.exit(str(error))
        stack.callback(stub.stop)
        cache = Path(options.cache).expanduser()

        def redis() -> str:
            server = redis_server(folder / "redis")
            stack.callback(server.stop)
            return f"redis://127.0.0.1:{server.port}/0"

        makers: dict[str, Callable[[], Process]] = {
            "ams-gateway": lambda: gateway(folder / "gateway", stub.port),
            "all-on": lambda: gateway_with_keys(folder / "all-on", stub.port),
            "all-on-redis": lambda: gateway_with_keys(
                folder / "all-on-redis", stub.port, redis(), "ams-gateway, all on, Redis"
            ),
            "processes": lambda: gateway_of_processes(folder / "processes", stub.port, redis(), options.processes),
            "nginx": lambda: nginx_proxy(folder / "nginx", stub),
            "sglang-router": lambda: sglang_router(folder / "sglang", stub, cache),
            "litellm": lambda: litellm(folder / "litellm", stub, cache),
            "litellm-key": lambda: litellm(folder / "litellm-key", stub, cache, keys=True),
        }
        servers = []
        for name in options.only.split(",") if options.only else [name for name in makers if name != "processes"]:
            try:
                servers.append(makers[name]())
                stack.callback(servers[-1].stop)
            except Missing as error:
                skipped[name] = str(error)
                print(f"{name}: left out: {error}", file=sys.stderr, flush=True)
        rounds = [_round(number, stub, servers, script, options) for number in range(options.rounds)]
        for server in servers:
            server.stop()
        streams = _streams(folder, stack, options) if options.streams else None
        result = {
            "machine": _machine(),
            "options": {
                "rounds": options.rounds,
                "seconds": options.seconds,
                "connections": options.connections,
                "large_bytes": options.large_bytes,
            },
            "versions": {server.name: server.version for server in [stub, *servers]} | {"wrk": _wrk_version()},
            "skipped": skipped,
            "rounds": rounds,
            "medians": {name: _medians(rounds, name) for name in ["stub", *(server.name for server in servers)]},
            "streams": streams,
        }
    if options.json:
        Path(options.json).parent.mkdir(parents=True, exist_ok=True)
        Path(options.json).write_text(json.dumps(result, indent=2) + "\n")
    print(table(result))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds over all servers (default 5)")
    parser.add_argument("--seconds", type=int, default=5, help="seconds of each measurement (default 5)")
    parser.add_argument("--connections", type=int, default=32, help="connections for requests a second (default 32)")
    parser.add_argument(
        "--large-bytes", type=int, default=400_000, help="bytes of an image in base64 in large bodies (0: none)"
    )
    parser.add_argument("--streams", type=int, default=1000, help="streams held at once; 0 leaves them out")
    parser.add_argument("--rate", type=float, default=20, help="events a second of each stream (default 20)")
    parser.add_argument(
        "--only",
        default="",
        help=f"servers to measure, separated by commas: {', '.join(SERVERS)}",
    )
    parser.add_argument("--processes", type=int, default=2, help="how many of them the server `processes` has")
    parser.add_argument("--json", default="", help="file for all figures")
    parser.add_argument(
        "--cache",
        default=os.environ.get("AMS_BENCH_CACHE", "~/.cache/ai-model-server-bench"),
        help="folder of the peers' environments [AMS_BENCH_CACHE]",
    )
    options = parser.parse_args()
    if unknown := set(filter(None, options.only.split(","))) - set(SERVERS):
        parser.error(f"--only: {', '.join(sorted(unknown))}: expected some of {', '.join(SERVERS)}")
    return options


def _round(
    number: int, stub: Process, servers: list[Process], script: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """One measurement of each server and of the stub without any; who begins changes from round to round."""
    order = [stub, *servers]
    order = order[number % len(order) :] + order[: number % len(order)]
    figures: dict[str, Any] = {}
    for server in order:
        figures[server.name] = {
            "many": _wrk(server, script, options.connections, options.seconds),
            "one": _wrk(server, script, 1, options.seconds),
            "paced": _wrk(server, script, 10, options.seconds, pause_ms=10),
        }
        if options.large_bytes:
            figures[server.name]["large"] = _wrk(server, script, 8, options.seconds, image=options.large_bytes)
        many = figures[server.name]["many"]
        print(f"round {number + 1} {server.name}: {many['rate']:.0f} requests/s", file=sys.stderr, flush=True)
    return figures


def _wrk(
    server: Process, script: Path, connections: int, seconds: int, pause_ms: int = 0, image: int = 0
) -> dict[str, float]:
    before = server.cpu_seconds()
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}", "--timeout", "10s", "-s", str(script), server.url]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        timeout=seconds + 60,
        env={**os.environ, "PAUSE_MS": str(pause_ms), "IMAGE_BYTES": str(image), "API_KEY": server.key},
    )
    found = re.search(r"^RESULT (.*)$", done.stdout, re.M)
    if found is None:
        raise RuntimeError(f"wrk said: {done.stdout}")
    figures: dict[str, float] = json.loads(found[1])
    figures["rate"] = figures["requests"] / figures["seconds"]
    figures["cpu_us"] = (server.cpu_seconds() - before) / max(figures["requests"], 1) * 1e6
    return figures


def _medians(rounds: list[dict[str, Any]], name: str) -> dict[str, float]:
    def median(kind: str, field: str) -> float:
        return float(statistics.median(figures[name][kind][field] for figures in rounds))

    added = statistics.median(figures[name]["one"]["p50_ms"] - figures["stub"]["one"]["p50_ms"] for figures in rounds)
    return {
        "requests_per_second": round(median("many", "rate")),
        "cpu_us_per_request": round(median("many", "cpu_us"), 1),
        "p99_ms_at_many": round(median("many", "p99_ms"), 2),
        "p50_ms_at_one": round(median("one", "p50_ms"), 3),
        "added_p50_ms_at_one": round(added, 3),
        "p99_ms_paced": round(median("paced", "p99_ms"), 2),
        "paced_rate": round(median("paced", "rate")),
        "errors": sum(figures["errors"] for each in rounds for figures in each[name].values()),
        "large_per_second": round(median("large", "rate")) if "large" in rounds[0][name] else 0,
        "large_cpu_us": round(median("large", "cpu_us")) if "large" in rounds[0][name] else 0,
    }


def _streams(folder: Path, stack: ExitStack, options: argparse.Namespace) -> dict[str, Any]:
    """Memory of idle streams, and the delay of events of running ones, through the gateway and without it."""
    port = free_port()
    pod = subprocess.Popen([sys.executable, str(HERE / "gateway_stub.py"), str(port)])
    stack.callback(pod.wait)
    stack.callback(pod.kill)
    server = gateway(folder / "streams", port, "ams-gateway (streams)")
    stack.callback(server.stop)
    empty = server.resident_bytes()
    idle, held = _hold(server.port, options.streams, "idle", 2, server)
    ways: dict[str, tuple[int, Process | None]] = {"direct": (port, None), "ams-gateway": (server.port, server)}
    try:
        nginx = nginx_proxy_to(folder / "nginx-streams", port, asked="/ready", streams=True)
        stack.callback(nginx.stop)
        ways["nginx"] = (nginx.port, nginx)
    except Missing as error:
        print(f"streams through nginx: left out: {error}", file=sys.stderr, flush=True)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
    changing: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
    for number in range(options.rounds):
        names = list(ways)[number % len(ways) :] + list(ways)[: number % len(ways)]
        for name in names:
            figures, _ = _hold(ways[name][0], options.streams, f"ticks {options.rate}", options.seconds, ways[name][1])
            found[name].append(figures)
            print(f"streams, round {number + 1} {name}: {figures}", file=sys.stderr, flush=True)
            figures, _ = _hold(
                ways[name][0],
                options.streams,
                f"ticks {options.rate / 2}",
                options.seconds,
                ways[name][1],
                _LIFE_SECONDS,
            )
            changing[name].append(figures)
            print(f"streams that change, round {number + 1} {name}: {figures}", file=sys.stderr, flush=True)
    return {
        "streams": options.streams,
        "open_idle": idle["open"],
        "resident_mb_without_streams": round(empty / 1e6, 1),
        "resident_mb_with_idle_streams": round(held / 1e6, 1),
        "kb_per_stream": round((held - empty) / 1e3 / options.streams, 1),
        "events_per_second_each": options.rate,
        "rounds": found,
        "medians": {name: _stream_medians(rounds) for name, rounds in found.items()},
        "changing_rounds": changing,
        "changing": {name: _stream_medians(rounds) for name, rounds in changing.items()},
        "changing_life_seconds": _LIFE_SECONDS,
    }


def _stream_medians(rounds: list[dict[str, Any]]) -> dict[str, float]:
    return {
        "delay_p50_ms": statistics.median(each["delay_ms"]["p50"] for each in rounds),
        "delay_p99_ms": statistics.median(each["delay_ms"]["p99"] for each in rounds),
        "cpu_us_per_event": statistics.median(each.get("cpu_us_per_event", 0.0) for each in rounds),
        "fewest_open": min(each["open"] for each in rounds),
    }


def _hold(
    port: int, count: int, prompt: str, seconds: float, server: Process | None, life: float = 0.0
) -> tuple[dict[str, Any], int]:
    """Open streams, measure for some seconds. Returns the client's figures and the server's memory meanwhile.

    Each is left after a `life` of so many seconds, more or less, where another one begins; 0: all stay.
    """
    command = [sys.executable, str(HERE / "gateway_streams.py"), str(port), str(count), prompt, str(seconds), str(life)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        figures = json.loads(client.stdout.readline())
        before = server.cpu_seconds() if server else 0.0
        resident = server.resident_bytes() if server else 0
        figures |= json.loads(client.stdout.readline())
        if server and figures["events"]:
            figures["cpu_us_per_event"] = round((server.cpu_seconds() - before) / figures["events"] * 1e6, 1)
    return figures, resident


def _machine() -> dict[str, Any]:
    cpu = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    return {
        "cpu": cpu[1] if cpu else platform.machine(),
        "cores": os.cpu_count(),
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def _wrk_version() -> str:
    return (subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False).stdout.split(" [") or [""])[0]


def table(result: dict[str, Any]) -> str:
    """The figures as Markdown."""
    machine, options = result["machine"], result["options"]
    lines = [
        f"{machine['cores']} cores of {machine['cpu']}, Python {machine['python']}, load {machine['load_average'][0]} "
        f"at the end; medians of {options['rounds']} interleaved rounds of {options['seconds']:g} s.",
        "",
        f"| server | requests/s at {options['connections']} | CPU µs a request | p99 there | p50 at 1 | added p50 at 1 "
        f"| p99 at ~1,000/s | requests/s of {options.get('large_bytes', 0) // 1000} KB | CPU µs of one | errors |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, figures in result["medians"].items():
        shown = "stub alone" if name == "stub" else name
        added = "" if name == "stub" else f"{figures['added_p50_ms_at_one']:.3f} ms"
        lines.append(
            f"| {shown} | {figures['requests_per_second']:,} | {figures['cpu_us_per_request']:g} "
            f"| {figures['p99_ms_at_many']:g} ms | {figures['p50_ms_at_one']:.3f} ms | {added} "
            f"| {figures['p99_ms_paced']:g} ms | {figures.get('large_per_second', 0):,} "
            f"| {figures.get('large_cpu_us', 0):,} | {figures['errors']:g} |"
        )
    if streams := result["streams"]:
        lines += [
            "",
            f"{streams['streams']:,} streams through ams-gateway: {streams['resident_mb_with_idle_streams']:g} MB when "
            f"idle ({streams['resident_mb_without_streams']:g} MB without, {streams['kb_per_stream']:g} KB each). At "
            f"{streams['events_per_second_each']:g} events/s each:",
            "",
            "| streams | delay p50 | delay p99 | added p99 | CPU µs an event |",
            "|---|---|---|---|---|",
        ]
        rows = [(name, streams["medians"], name) for name in streams["medians"]]
        life = f"each left after about {streams.get('changing_life_seconds', 0):g} s, half the events"
        rows += [(name, streams["changing"], f"{name}, {life}") for name in streams.get("changing", ())]
        for name, medians, words in rows:
            figures, direct = medians[name], medians["direct"]["delay_p99_ms"]
            lines.append(
                f"| {words} | {figures['delay_p50_ms']:g} ms | {figures['delay_p99_ms']:g} ms "
                f"| {figures['delay_p99_ms'] - direct:.1f} ms | {figures['cpu_us_per_event']:g} |"
            )
    versions = "; ".join(f"{name}: {version}" for name, version in result["versions"].items())
    lines += ["", f"Versions: {versions}."]
    lines += [f"Left out: {name}: {reason}." for name, reason in result["skipped"].items()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
