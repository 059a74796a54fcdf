"""Requests with images, audio and both over HTTP, 1, 4 and 8 at once, against transformers' generate; and a long video.

    python benchmarks/multimodal.py --models FOLDER [--rounds 3] [--json benchmarks/results/multimodal.json]

FOLDER keeps the random checkpoints (3 GB), made when they are missing. Pod and baseline run side by side, the one that
isn't measured stopped (SIGSTOP); rounds are interleaved; figures are medians over rounds.
"""

import argparse
import asyncio
import base64
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp
import engine_servers as servers
import multimodal_models
import uvloop
from media import photo
from prometheus_client.parser import text_string_to_metric_families
from streams import interrupt

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from test_media.media_files import saved, sound, video

COUNTS = (1, 4, 8)
SIZE = (336, 252)  # pixels: 108 tokens an image
SINGLE = 4  # requests that are sent one by one
SECONDS = 5.0  # of a clip: 125 tokens
STREAMS = 4  # that run while the video comes
QUESTIONS = 10
_TEXT = "Please tell me about the number {} and why it matters."
_TIMEOUT = aiohttp.ClientTimeout(total=1200)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument(
        "--threads", type=int, default=len(os.sched_getaffinity(0)), help="that compute, of each server"
    )
    parser.add_argument("--only", default="image,audio,omni,video")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    wanted = arguments.only.split(",")
    report: dict[str, Any] = {"machine": servers.machine(), "load_before": os.getloadavg(), "tokens": arguments.tokens,
                              "threads": arguments.threads}  # fmt: skip
    with tempfile.TemporaryDirectory() as logs:
        for kind in multimodal_models.KINDS:
            if kind in wanted:
                folder = multimodal_models.make(kind, arguments.models)
                report[kind] = compare(kind, folder, Path(logs), arguments)
        if "video" in wanted:
            folder = multimodal_models.make("image", arguments.models)
            report["video"] = long_video(folder, Path(logs), arguments)
    report["load_after"] = os.getloadavg()
    print("\n" + table(report))
    if arguments.json:
        servers.save(arguments.json, report)


def pod(kind: str, folder: Path, threads: int) -> servers.Server:
    port = servers.free_port()
    command = [
        sys.executable, "-m", "ams_pod", "serve", "--name", kind, "--source", f"file://{folder}", "--host", "127.0.0.1",
        "--port", str(port), "--concurrent-requests", "8", "--context-tokens", "4096", "--threads", str(threads),
    ]  # fmt: skip
    return servers.Server("ams-pod", command, port, kind, "")


def baseline(kind: str, folder: Path, threads: int) -> servers.Server:
    port = servers.free_port()
    script = Path(__file__).with_name("multimodal_sequential.py")
    command = [sys.executable, str(script), kind, str(folder), str(port), str(threads)]
    return servers.Server("generate", command, port, kind, "")


def request(kind: str, index: int, tokens: int) -> dict[str, Any]:
    """Different media for each index, so that nothing can be shared."""
    body: dict[str, Any] = {
        "prompt": f"What is this, number {index}?", "max_new_tokens": tokens, "temperature": 0, "ignore_eos": True,
    }  # fmt: skip
    if kind != "audio":
        body["image"] = _text(saved(photo(*SIZE).rotate(17 * index), "JPEG"))
    if kind != "image":
        body["audio"] = _text(sound("mp3", "libmp3lame", seconds=SECONDS + 0.1 * index))
    return body


def compare(kind: str, folder: Path, logs: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds a request takes when 1, 4 and 8 come at once, and one by one, also by the baseline."""
    ours, theirs = pod(kind, folder, arguments.threads), baseline(kind, folder, arguments.threads)
    bodies = [request(kind, index, arguments.tokens) for index in range(max(COUNTS))]
    seconds: dict[str, list[float]] = {}
    memory: list[float] = []
    try:
        for server in (ours, theirs):
            server.start(logs / f"{kind}-{server.name}.log")
            uvloop.run(at_once(server.url, bodies[:1]))  # the first request fills and compiles
            server.pause()
        for turn in range(arguments.rounds):
            ours.go_on()
            for count in COUNTS:
                before = _reset_peak(ours)
                seconds.setdefault(f"{count} at once", []).append(uvloop.run(at_once(ours.url, bodies[:count])))
                if count == max(COUNTS):
                    memory.append((_peak(ours) - before) / count)
            seconds.setdefault("one by one", []).append(uvloop.run(one_by_one(ours.url, bodies[:SINGLE])))
            ours.pause()
            theirs.go_on()
            seconds.setdefault("generate", []).append(uvloop.run(one_by_one(theirs.url, bodies[:SINGLE])))
            theirs.pause()
            last = "  ".join(f"{name} {values[-1]:.1f} s" for name, values in seconds.items())
            print(f"{kind} round {turn + 1}: {last}", flush=True)
    finally:
        ours.stop()
        theirs.stop()
    return {"seconds": seconds, "peak_bytes_a_request": memory}


async def at_once(url: str, bodies: list[dict[str, Any]]) -> float:
    async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
        started = time.perf_counter()
        await asyncio.gather(*(_ask(session, url, body) for body in bodies))
        return (time.perf_counter() - started) / len(bodies)


async def one_by_one(url: str, bodies: list[dict[str, Any]]) -> float:
    async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
        started = time.perf_counter()
        for body in bodies:
            await _ask(session, url, body)
        return (time.perf_counter() - started) / len(bodies)


async def _ask(session: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> None:
    async with session.post(f"{url}/generate", json=body) as response:
        answer = await response.json()
        if response.status != 200 or answer["usage"]["completion_tokens"] != body["max_new_tokens"]:
            raise RuntimeError(f"{response.status}: {answer}")


def long_video(folder: Path, logs: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Text requests and running streams, without and with a ten-minute video on its way."""
    options = {"preset": "ultrafast", "g": "250"}
    data = video("mp4", "libx264", frames=6000, rate=10, size=(640, 480), options=options, sound_codec=None)
    film = {"prompt": "What happens?", "video": _text(data), "max_new_tokens": 1, "temperature": 0}
    server = pod("image", folder, arguments.threads)
    rows: list[dict[str, Any]] = []
    try:
        server.start(logs / "video.log")
        uvloop.run(at_once(server.url, [film]))
        for turn in range(arguments.rounds):
            rows.append(uvloop.run(_around(server.url, film)))
            print(f"video round {turn + 1}: " + "  ".join(f"{n} {v:.3f}" for n, v in rows[-1].items()), flush=True)
    finally:
        server.stop()
    return {"rounds": rows, "bytes": len(data)}


async def _around(url: str, film: dict[str, Any]) -> dict[str, Any]:
    async with aiohttp.ClientSession(timeout=_TIMEOUT, connector=aiohttp.TCPConnector(limit=0)) as session:
        usual = [await _first_token(session, url, index) for index in range(QUESTIONS)]
        before = await _towers(session, url)
        started = time.perf_counter()
        asking = asyncio.create_task(_ask(session, url, film))
        during: list[tuple[float, float]] = []
        while not asking.done():
            done, _ = await _towers(session, url)
            during.append((done, await _first_token(session, url, len(during))))
        await asking
        alone = time.perf_counter() - started
        after = await _towers(session, url)
        calls, spent = (b - a for a, b in zip(before, after, strict=True))
        encoding = [seconds for done, seconds in during if done < after[0]]
        reading = [seconds for done, seconds in during if done >= after[0]]
    running = [_question(index, 300) for index in range(STREAMS)]
    part = {"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{film['video']}"}}
    shown = _question(0, 8) | {"messages": [{"role": "user", "content": [part, {"type": "text", "text": "What?"}]}]}
    seen = await interrupt(url, running, shown, 15)
    return {
        "usual_first_token": statistics.median(usual),
        "first_token_while_decoded_and_encoded": statistics.median(encoding),
        "slowest_of_these": max(encoding),
        "first_token_while_its_prompt_is_read": max(reading, default=0.0),
        "tower_calls": calls,
        "tower_call": spent / calls,
        "video_alone": alone,
        "usual_gap": seen.usual_gap,
        "longest_gap_beside_video": seen.longest_gap,
        "video_beside_streams": seen.first_token_seconds,
    }


def _question(index: int, tokens: int) -> dict[str, Any]:
    message = {"role": "user", "content": _TEXT.format(index)}
    return {
        "model": "image", "messages": [message], "max_tokens": tokens, "temperature": 0, "stream": True,
        "ignore_eos": True, "stream_options": {"include_usage": True},
    }  # fmt: skip


async def _first_token(session: aiohttp.ClientSession, url: str, index: int) -> float:
    """Seconds to an answer of one token."""
    started = time.perf_counter()
    await _ask(session, url, {"prompt": _TEXT.format(index), "max_new_tokens": 1, "temperature": 0})
    return time.perf_counter() - started


async def _towers(session: aiohttp.ClientSession, url: str) -> tuple[float, float]:
    """Calls of the towers so far, and the seconds they took."""
    async with session.get(f"{url}/metrics") as response:
        text = await response.text()
    found = {s.name: s.value for family in text_string_to_metric_families(text) for s in family.samples}
    return found["ams_pod_tower_calls_total"], found["ams_pod_tower_seconds_total"]


def _reset_peak(server: servers.Server) -> int:
    """Let the kernel forget the process's peak; what it holds now, in bytes."""
    Path(f"/proc/{_pid(server)}/clear_refs").write_text("5")
    return _memory(server, "VmRSS:")


def _peak(server: servers.Server) -> int:
    return _memory(server, "VmHWM:")


def _memory(server: servers.Server, field: str) -> int:
    for line in Path(f"/proc/{_pid(server)}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field}")


def _pid(server: servers.Server) -> int:
    assert server.process is not None
    return server.process.pid


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def table(report: dict[str, Any]) -> str:
    """Markdown: medians over rounds, and what they come to."""
    lines = [
        "| seconds a request | alone | 4 at once | 8 at once | one by one | `generate` | gain of 8 over one by one "
        "| over `generate` | peak memory a request |",
        "|---" * 9 + "|",
    ]
    for kind in multimodal_models.KINDS:
        if kind not in report:
            continue
        found = {name: statistics.median(values) for name, values in report[kind]["seconds"].items()}
        eight, single, peer = found["8 at once"], found["one by one"], found["generate"]
        cells = [f"{value:.2f}" for value in (found["1 at once"], found["4 at once"], eight, single, peer)]
        memory = statistics.median(report[kind]["peak_bytes_a_request"]) / 1e6
        lines.append(
            f"| {kind} | {' | '.join(cells)} | {single / eight:.1f} × | {peer / eight:.1f} × | {memory:.0f} MB |"
        )
    if "video" in report:
        lines += ["", "| beside a long video | |", "|---|---|"]
        rows = report["video"]["rounds"]
        for name in rows[0]:
            value = statistics.median(row[name] for row in rows)
            shown = f"{value:.0f}" if name == "tower_calls" else f"{1e3 * value:.0f} ms"
            lines.append(f"| {name.replace('_', ' ')} | {shown} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
