"""What we take of an engine: a bare one beside the same one through us, in one run, by turns.

    python benchmarks/through.py llamacpp /path/to/llama-server model.gguf
    python benchmarks/through.py vllm /path/to/vllm /path/to/folder

Three ways lead to an engine that is started with the same arguments each time: `bare` asks it itself, `pod` asks
`ams-pod serve` in front of it, `gateway` asks `ams up`; `builtin` asks our own engine on the same model. All ask
`/v1/completions` with the same prompts and stream. One way is measured after the other, round by round, so that what
else the machine does meets all of them. Told are tokens a second and the median time to the first token, each the
median of the rounds; and the ratio to `bare`, and how much later the first token comes, each the median of what the
rounds show. The first token is the first that has text: some engines send an empty piece for a control token, we don't.
Between two measurements nothing is asked for a while, as engines that are done go on spinning for some time.
"""

import argparse
import asyncio
import contextlib
import json
import os
import shlex
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
CONTEXT = 1024
PATIENCE_SECONDS = 300
PAUSE_SECONDS = 2


@dataclass(frozen=True)
class Given:
    """What is measured: an engine's program and model, arguments of it beside ours, and requests at once."""

    engine: str
    program: str
    model: str
    more: Sequence[str]
    places: int
    builtin_memory: str


@dataclass(frozen=True)
class Measured:
    """Of one round: tokens a second of all streams together, and the median of seconds to the first token."""

    tokens_per_second: float
    first_token: float


def resource(given: Given) -> dict[str, Any]:
    return {
        "apiVersion": "aimodelserver.io/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": NAME},
        "spec": {
            "model": {"source": f"file://{Path(given.model).absolute()}"},
            "engine": {"name": given.engine, "args": list(given.more)},
            "limits": {"contextTokens": CONTEXT, "concurrentRequests": given.places, "queuedRequests": 256},
        },
    }


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def running(words: Sequence[str], log: Path, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("w") as output:
        process = subprocess.Popen(words, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **variables})
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def command(given: Given, model: str, port: int) -> list[str]:
    """The engine's, as we render it."""
    wishes = wishes_of(parse_model_deployment(resource(given)), model=model, host="127.0.0.1", port=port)
    return [given.program, *ROWS[given.engine].full_command(wishes)[1:]]  # type: ignore[index]


def on_cores(program: str, cores: str, folder: Path) -> str:
    """A program that runs this one on these cores alone; the engine's libraries are still found beside it."""
    beside = shlex.quote(str(Path(program).parent))
    found = folder / Path(program).name
    line = f'exec taskset -c {shlex.quote(cores)} {shlex.quote(program)} "$@"'
    found.write_text(f"#!/bin/sh\nexport LD_LIBRARY_PATH={beside}\n{line}\n")
    found.chmod(0o755)
    return str(found)


@dataclass(frozen=True)
class Way:
    url: str
    process: subprocess.Popen[bytes]
    log: Path


@contextlib.contextmanager
def ways(given: Given, names: Sequence[str], folder: Path) -> Iterator[dict[str, "Way"]]:
    """By name. All run at once: an engine that nobody asks takes no processor."""
    with contextlib.ExitStack() as stack:
        found = {}
        beside = str(Path(given.program).parent)
        for name in names:
            port = free_port()
            variables = {}
            if name == "bare":
                words = command(given, str(Path(given.model).absolute()), port)
                variables = {"LD_LIBRARY_PATH": beside} if list(Path(beside).glob("lib*.so*")) else {}
            elif name == "gateway":
                words = up(given, port, folder)
            else:
                words = serve(given, port, folder, ours=name == "builtin")
            log = folder / f"{name}.log"
            process = stack.enter_context(running(words, log, **variables))
            found[name] = Way(f"http://127.0.0.1:{port}", process, log)
        yield found


def up(given: Given, port: int, folder: Path) -> list[str]:
    manifest = folder / "model.json"
    manifest.write_text(json.dumps(resource(given)))
    return [
        sys.executable, "-m", "ams_cli.main", "up", "-f", str(manifest), "--port", str(port),
        "--models-dir", str(folder / "models"), "--engine-path", f"{given.engine}={given.program}",
        "--log-dir", str(folder / "logs"), "--usage-file", str(folder / "usage.db"),
    ]  # fmt: skip


def serve(given: Given, port: int, folder: Path, *, ours: bool) -> list[str]:
    """The pod in front of the engine, or with `ours` alone, behind its download of the model."""
    source = resource(given)["spec"]["model"]["source"]
    which = "builtin" if ours else given.engine
    models = ["--models-dir", str(folder / "models")]
    subprocess.run(
        [sys.executable, "-m", "ams_pod", "download", "--source", source, "--engine", which, *models,
         "--progress-port", "-1", "--termination-log", str(folder / "download")],
        check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    words = [
        sys.executable, "-m", "ams_pod", "serve", "--name", NAME, "--source", source, *models, "--host", "127.0.0.1",
        "--port", str(port), "--context-tokens", str(CONTEXT), "--concurrent-requests", str(given.places),
        "--queued-requests", "256", "--termination-log", str(folder / f"serve-{which}"),
    ]  # fmt: skip
    if ours:
        return [*words, *(["--max-memory", given.builtin_memory] if given.builtin_memory else [])]
    rendered = json.dumps([*command(given, "/MODEL", 1)])
    rendered = rendered.replace('"/MODEL"', '"{model}"').replace('"--port", "1"', '"--port", "{port}"')
    return [*words, "--engine", given.engine, "--engine-command", rendered]


async def until_answers(session: aiohttp.ClientSession, way: Way) -> None:
    url, deadline = way.url, time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if way.process.poll() is not None:
            raise SystemExit(f"{way.log.stem} ended:\n{way.log.read_text(errors='replace')[-3000:]}")
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
            if not first and line.startswith(b"data: {") and has_text(line):
                first = time.perf_counter() - began
    return first


def has_text(line: bytes) -> bool:
    choices = json.loads(line.removeprefix(b"data: ")).get("choices")
    return bool(choices and choices[0].get("text"))


async def measure(session: aiohttp.ClientSession, url: str, streams: int, tokens: int, salt: str) -> Measured:
    """Prompts differ, so that none is kept from an earlier round."""
    prompts = [f"{salt} {number}: write a long story about a ship and its crew." for number in range(streams)]
    began = time.perf_counter()
    firsts = await asyncio.gather(*(ask(session, url, prompt, tokens) for prompt in prompts))
    return Measured(streams * tokens / (time.perf_counter() - began), statistics.median(firsts))


async def compare(found: dict[str, Way], streams: Sequence[int], rounds: int, tokens: int) -> list[dict[str, Any]]:
    rows = []
    limit = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=limit, timeout=aiohttp.ClientTimeout(total=None)) as session:
        for way in found.values():
            await until_answers(session, way)
        urls = {name: way.url for name, way in found.items()}
        for count in streams:
            rounds_of: dict[str, list[Measured]] = {name: [] for name in urls}
            for number in range(rounds + 1):
                order = list(urls.items()) if number % 2 else list(urls.items())[::-1]
                for name, url in order:
                    await asyncio.sleep(PAUSE_SECONDS)
                    measured = await measure(session, url, count, tokens, f"Round {number} of {count}")
                    if number:  # the first one warms up
                        rounds_of[name].append(measured)
            middle = {
                name: Measured(
                    statistics.median(each.tokens_per_second for each in measured),
                    statistics.median(each.first_token for each in measured),
                )
                for name, measured in rounds_of.items()
            }
            for name, measured in middle.items():
                pairs = list(zip(rounds_of[name], rounds_of["bare"], strict=True))
                rows.append(
                    {
                        "way": name,
                        "streams": count,
                        "tokens_per_second": round(measured.tokens_per_second, 1),
                        "first_token_ms": round(measured.first_token * 1000, 1),
                        "ratio": round(
                            statistics.median(own.tokens_per_second / bare.tokens_per_second for own, bare in pairs), 3
                        ),
                        "first_token_more_ms": round(
                            statistics.median(own.first_token - bare.first_token for own, bare in pairs) * 1000, 1
                        ),
                    }
                )
                print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=[name for name in ROWS if name != "custom"])
    parser.add_argument("program", help="path of the engine's program")
    parser.add_argument("model", help="GGUF file or folder of weights")
    parser.add_argument("--ways", default="bare,pod,gateway", help="and builtin, where that serves the model too")
    parser.add_argument("--more", default="", help="further arguments of the engine, with spaces between")
    parser.add_argument("--cores", default="", help="of the engines, as taskset takes them; so others can be ours")
    parser.add_argument("--places", type=int, default=32, help="requests that an engine computes at once")
    parser.add_argument("--builtin-memory", default="", help="its spec.maxMemory as JSON, where a GPU is shared")
    parser.add_argument("--streams", default="1,8,32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--output", help="file for the rows as JSON")
    asked = parser.parse_args()
    counts = [int(each) for each in asked.streams.split(",")]
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ams-")))
        program = on_cores(asked.program, asked.cores, folder) if asked.cores else asked.program
        given = Given(asked.engine, program, asked.model, asked.more.split(), asked.places, asked.builtin_memory)
        found = stack.enter_context(ways(given, asked.ways.split(","), folder))
        rows = asyncio.run(compare(found, counts, asked.rounds, asked.tokens))
    if asked.output:
        Path(asked.output).write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
