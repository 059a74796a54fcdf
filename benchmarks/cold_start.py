"""How long the first token of a model takes that doesn't run, and where that time goes.

    python benchmarks/cold_start.py [-f MANIFEST] [--starts 7] [--forget] [--json FILE]

Runs `ams up` on the weights that are there (they are fetched first if they aren't), waits until its fork server is
warm, and then stops the model and asks it again, start after start. The phases are those that the pod's log tells,
the rest is what lies between the client and them. `--forget` removes what earlier starts have left for later ones
(`derived`) before each start: that is a model's first one. Medians, and in brackets the least and the most.
"""

import argparse
import asyncio
import contextlib
import json
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
from ams_pod.derived import NAME

PATIENCE_SECONDS = 900
QUESTION = "What is the capital of France?"
BEFORE, AFTER = "until the pod listens", "from ready to the token"
_LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) \S \S+ (.*)")
_TOOK = re.compile(r"(\S+) took [\d.]+ s")


@dataclass(frozen=True)
class Start:
    """Seconds from the request to the first token, and of each phase in between."""

    first_token: float
    phases: Mapping[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-f", "--manifest", type=Path, help="of one model; without it, the quickstart's")
    parser.add_argument("--models-dir", type=Path, help="folder with the weights; without it, that of `ams up`")
    parser.add_argument("--starts", type=int, default=7)
    parser.add_argument("--forget", action="store_true", help="each start is the model's first (needs --models-dir)")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.forget and given.models_dir is None:
        parser.error("--forget needs --models-dir")
    starts = asyncio.run(measure(given))
    print(table(starts))
    if given.json is not None:
        each = [{"first_token": start.first_token, "phases": dict(start.phases)} for start in starts]
        given.json.write_text(json.dumps(each, indent=1) + "\n")


async def measure(given: argparse.Namespace) -> list[Start]:
    with tempfile.TemporaryDirectory(prefix="ams-cold-start-") as logs, up(given, Path(logs)) as url:
        async with aiohttp.ClientSession(url, timeout=aiohttp.ClientTimeout(PATIENCE_SECONDS)) as client:
            name = await only_model(client)
            await ask(client, name)  # weights are fetched, files come into the page cache, the fork server is warm
            starts = []
            for _ in range(given.starts):
                await stop(client, name)
                if given.forget:
                    for folder in given.models_dir.rglob(NAME):
                        shutil.rmtree(folder, ignore_errors=True)
                starts.append(await start(client, name))
                print(f"{starts[-1].first_token:.3f} s", file=sys.stderr, flush=True)
            return starts


@contextlib.contextmanager
def up(given: argparse.Namespace, logs: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [
        sys.executable,
        "-c",
        "from ams_cli.main import main; main()",
        "up",
        "--port",
        str(port),
        "--log-dir",
        str(logs),
    ]
    if given.manifest is not None:
        words += ["-f", str(given.manifest)]
    if given.models_dir is not None:
        words += ["--models-dir", str(given.models_dir)]
    with (logs / "up.log").open("w") as output:
        server = subprocess.Popen(words, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(60)


async def only_model(client: aiohttp.ClientSession) -> str:
    async for models in overviews(client):
        if len(models) != 1:
            raise SystemExit("the manifest has to have one model")
        return str(models[0]["name"])
    raise AssertionError


async def overviews(client: aiohttp.ClientSession) -> AsyncIterator[list[Any]]:
    """What is told of all models, again and again, from when the gateway answers."""
    ends = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < ends:
        with contextlib.suppress(aiohttp.ClientError):
            async with client.get("/overview") as response:
                yield (await response.json())["models"]
        await asyncio.sleep(0.05)
    raise SystemExit("`ams up` didn't get there in time")


async def stop(client: aiohttp.ClientSession, name: str) -> None:
    async with client.post(f"/admin/models/{name}/stop") as response:
        response.raise_for_status()
    async for models in overviews(client):
        if models[0]["state"] == "idle":
            break
    await asyncio.sleep(1.0)  # what the process took is given back


async def ask(client: aiohttp.ClientSession, name: str) -> float:
    """Unix time of the first token: of its text, or of the end where it has none."""
    messages = [{"role": "user", "content": QUESTION}]
    body = {"model": name, "messages": messages, "max_tokens": 8, "temperature": 0, "stream": True}
    async with client.post("/v1/chat/completions", json=body) as response:
        async for line in response.content:
            if line.startswith(b"data: {") and any(map(tells, json.loads(line[6:]).get("choices", ()))):
                told = time.time()
                async for _ in response.content:
                    pass
                return told
    raise SystemExit("the model gave no token")


def tells(choice: Mapping[str, Any]) -> bool:
    return bool(choice["delta"].get("content") or choice.get("finish_reason"))


async def start(client: aiohttp.ClientSession, name: str) -> Start:
    asked = time.time()
    told = await ask(client, name)
    async with client.get(f"/admin/models/{name}/logs") as response:
        log = await response.text()
    return Start(told - asked, phases(log.splitlines(), asked, told))


def phases(log: Sequence[str], asked: float, told: float) -> dict[str, float]:
    """Seconds of each phase, by the times of the lines that end them."""
    found: dict[str, float] = {}
    at = asked
    for line in log:
        if (parts := _LINE.match(line)) is None:
            continue
        when, text = datetime.strptime(parts[1], "%Y-%m-%d %H:%M:%S,%f").timestamp(), parts[2]
        if when < asked - 0.001:
            continue
        took = _TOOK.fullmatch(text)
        ends = BEFORE if " listens on " in text else took[1] if took is not None else ""
        if ends:
            found[ends] = found.get(ends, 0.0) + when - at
            at = when
    return {**found, AFTER: told - at}


def table(starts: Sequence[Start]) -> str:
    def words(values: Sequence[float]) -> str:
        return f"{1000 * statistics.median(values):.0f} ({1000 * min(values):.0f} to {1000 * max(values):.0f})"

    rows = [("first token", words([start.first_token for start in starts]))]
    rows += [(name, words([start.phases.get(name, 0.0) for start in starts])) for name in starts[-1].phases]
    return "\n".join(["| | ms |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows)])


if __name__ == "__main__":
    main()
