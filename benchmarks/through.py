"""What we take of an engine: a bare one beside the same one through us, in one run, by turns.

    python benchmarks/through.py llamacpp /path/to/llama-server model.gguf
    python benchmarks/through.py vllm /path/to/vllm /path/to/folder

Three ways lead to an engine that is started with the same arguments each time: `bare` asks it itself, `pod` asks
`ams-pod serve` in front of it, `gateway` asks `ams up`. All ask `/v1/completions` with the same prompts and stream. One
way is measured after the other, round by round, so that what else the machine does meets all of them. Told are tokens a
second and the median time to the first token, each the median of the rounds, and the ratio to `bare`.
"""

import argparse
import asyncio
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from ams_common.engines.table import ROWS
from ams_common.engines.wishes import wishes_of
from ams_common.resource.parse import parse_model_deployment

NAME = "model"
CONTEXT, PLACES = 1024, 32
PATIENCE_SECONDS = 300


@dataclass(frozen=True)
class Measured:
    """Of one round: tokens a second of all streams together, and the median of seconds to the first token."""

    tokens_per_second: float
    first_token: float


def resource(engine: str, model: str) -> dict[str, Any]:
    return {
        "apiVersion": "aimodelserver.io/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": NAME},
        "spec": {
            "model": {"source": f"file://{Path(model).absolute()}"},
            "engine": {"name": engine},
            "limits": {"contextTokens": CONTEXT, "concurrentRequests": PLACES, "queuedRequests": 256},
        },
    }


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def running(words: Sequence[str], log: Path, **variables: str) -> Iterator[None]:
    with log.open("w") as output:
        process = subprocess.Popen(words, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **variables})
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def command(engine: str, program: str, model: str, port: int) -> list[str]:
    """The engine's, as we render it."""
    wishes = wishes_of(
        parse_model_deployment(resource(engine, model)), model=str(Path(model).absolute()), host="127.0.0.1", port=port
    )
    return [program, *ROWS[engine].full_command(wishes)[1:]]  # type: ignore[index]


@contextlib.contextmanager
def ways(engine: str, program: str, model: str, names: Sequence[str], folder: Path) -> Iterator[dict[str, str]]:
    """URLs by way. All run at once: an engine that nobody asks takes no processor."""
    with contextlib.ExitStack() as stack:
        urls = {}
        beside = str(Path(program).parent)
        for name in names:
            port = free_port()
            urls[name] = f"http://127.0.0.1:{port}"
            log = folder / f"{name}.log"
            if name == "bare":
                libraries = {"LD_LIBRARY_PATH": beside} if list(Path(beside).glob("lib*.so*")) else {}
                stack.enter_context(running(command(engine, program, model, port), log, **libraries))
                continue
            manifest = folder / "model.json"
            manifest.write_text(json.dumps(resource(engine, model)))
            own = ["--models-dir", str(folder / "models")]
            if name == "gateway":
                words = [sys.executable, "-m", "ams_cli.main", "up", "-f", str(manifest), "--port", str(port), *own]
                words += ["--engine-path", f"{engine}={program}", "--log-dir", str(folder / "logs")]
                words += ["--usage-file", str(folder / "usage.db")]
            else:
                source = resource(engine, model)["spec"]["model"]["source"]
                subprocess.run(
                    [sys.executable, "-m", "ams_pod", "download", "--source", source, "--engine", engine, *own,
                     "--progress-port", "-1", "--termination-log", str(folder / "download")],
                    check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                )  # fmt: skip
                rendered = json.dumps([*command(engine, program, "/MODEL", 1)])
                rendered = rendered.replace('"/MODEL"', '"{model}"').replace('"--port", "1"', '"--port", "{port}"')
                words = [sys.executable, "-m", "ams_pod", "serve", "--name", NAME, "--source", source, *own]
                words += ["--engine", engine, "--engine-command", rendered, "--context-tokens", str(CONTEXT)]
                words += ["--concurrent-requests", str(PLACES), "--queued-requests", "256", "--host", "127.0.0.1"]
                words += ["--port", str(port), "--termination-log", str(folder / "serve")]
            stack.enter_context(running(words, log))
        yield urls


async def until_answers(session: aiohttp.ClientSession, url: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(aiohttp.ClientError, ConnectionError):
            async with session.post(f"{url}/v1/completions", json=body("ready?", 1)) as answer:
                if answer.status == 200:
                    await answer.read()
                    return
        await asyncio.sleep(0.5)
    raise SystemExit(f"{url} doesn't answer")


def body(prompt: str, tokens: int) -> dict[str, Any]:
    return {"model": NAME, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "stream": True}


async def ask(session: aiohttp.ClientSession, url: str, prompt: str, tokens: int) -> float:
    """Seconds to the first token."""
    began, first = time.perf_counter(), 0.0
    async with session.post(f"{url}/v1/completions", json=body(prompt, tokens)) as answer:
        answer.raise_for_status()
        async for line in answer.content:
            if not first and line.startswith(b"data: {"):
                first = time.perf_counter() - began
    return first


async def measure(session: aiohttp.ClientSession, url: str, streams: int, tokens: int, salt: str) -> Measured:
    """Prompts differ, so that none is kept from an earlier round."""
    prompts = [f"{salt} {number}: write a long story about a ship and its crew." for number in range(streams)]
    began = time.perf_counter()
    firsts = await asyncio.gather(*(ask(session, url, prompt, tokens) for prompt in prompts))
    return Measured(streams * tokens / (time.perf_counter() - began), statistics.median(firsts))


async def compare(urls: dict[str, str], streams: Sequence[int], rounds: int, tokens: int) -> list[dict[str, Any]]:
    rows = []
    limit = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=limit, timeout=aiohttp.ClientTimeout(total=None)) as session:
        for url in urls.values():
            await until_answers(session, url)
        for count in streams:
            found: dict[str, list[Measured]] = {name: [] for name in urls}
            for number in range(rounds + 1):
                order = list(urls.items()) if number % 2 else list(urls.items())[::-1]
                for name, url in order:
                    measured = await measure(session, url, count, tokens, f"Round {number} of {count}")
                    if number:  # the first one warms up
                        found[name].append(measured)
            middle = {
                name: Measured(
                    statistics.median(each.tokens_per_second for each in measured),
                    statistics.median(each.first_token for each in measured),
                )
                for name, measured in found.items()
            }
            bare = middle["bare"]
            for name, measured in middle.items():
                rows.append(
                    {
                        "way": name,
                        "streams": count,
                        "tokens_per_second": round(measured.tokens_per_second, 1),
                        "first_token_ms": round(measured.first_token * 1000, 1),
                        "ratio": round(measured.tokens_per_second / bare.tokens_per_second, 3),
                        "first_token_more_ms": round((measured.first_token - bare.first_token) * 1000, 1),
                    }
                )
                print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=[name for name in ROWS if name != "custom"])
    parser.add_argument("program", help="path of the engine's program")
    parser.add_argument("model", help="GGUF file or folder of weights")
    parser.add_argument("--ways", default="bare,pod,gateway")
    parser.add_argument("--streams", default="1,8,32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--output", help="file for the rows as JSON")
    given = parser.parse_args()
    counts = [int(each) for each in given.streams.split(",")]
    with (
        tempfile.TemporaryDirectory(prefix="ams-") as folder,
        ways(given.engine, given.program, given.model, given.ways.split(","), Path(folder)) as urls,
    ):
        rows = asyncio.run(compare(urls, counts, given.rounds, given.tokens))
    if given.output:
        Path(given.output).write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
