"""What keys are told to have used is what their clients counted, through crashes of a pod and of the gateway."""

import asyncio
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from ams_common.keys import KeyFile, Scope, Secret, StoredKey, hash_of, write_keys
from test_serve.live_client import Client
from test_serve.live_pods import LivePod, flags, pod_process

REQUESTS = int(os.environ.get("AMS_LEDGER_REQUESTS", "600"))
KEYS = [f"ams-key-{number}" for number in range(20)]
ADMIN = "ams-key-admin"
AT_ONCE = 16
LOST_SECONDS = 1.0
_READ_LATE_SECONDS = 0.5  # what was sent before a kill is read by a busy client after it; no gateway starts this fast
_COLLECTED_SECONDS = 14.0  # pods are asked every ten for what nobody heard


@dataclass
class Counted:
    """What clients got of one model: tokens by key, and answers that ended shortly before a kill of the gateway."""

    answered: Counter[str] = field(default_factory=Counter)
    ends: list[tuple[float, str, int]] = field(default_factory=list)
    failed: int = 0
    uncertain: Counter[str] = field(default_factory=Counter)  # sent, and not answered to the end


@contextmanager
def gateway(folder: Path, port: int, *pods: LivePod) -> Iterator[subprocess.Popen[bytes]]:
    backends = [part for pod in pods for part in ("--backend", f"{pod.name}={pod.address}")]
    settings = {
        "host": "127.0.0.1", "port": port, "keys_file": folder / "keys.json", "usage_file": folder / "usage.db",
        "audit_log": folder / "audit.log",
    }  # fmt: skip
    command = [sys.executable, "-c", "from ams_gateway.main import main; main()", *backends, *flags(settings)]
    with (folder / "ledger-gateway.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        client = Client(port)
        deadline = time.monotonic() + 60
        while True:
            with suppress(OSError):
                if client.get("/health").json()["models"]["ready"] == len(pods):
                    break
            assert time.monotonic() < deadline, (folder / "ledger-gateway.log").read_text()[-2000:]
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


async def ask(session: aiohttp.ClientSession, url: str, number: int, counted: dict[str, Counted]) -> None:
    """One request, whole or streamed; tokens count when the answer came to its end."""
    chance = random.Random(number)
    key, model = chance.choice(KEYS), chance.choice(("steady", "shaky"))
    stream = chance.random() < 0.5
    body: dict[str, Any] = {
        "model": model, "messages": [{"role": "user", "content": "x " * chance.randint(1, 40)}], "temperature": 0.8,
        "max_tokens": chance.randint(1, 12), "stream": stream,
    }  # fmt: skip
    if stream:
        body["stream_options"] = {"include_usage": True}
    mine = counted[model]
    mine.uncertain[key] += 1
    usage: dict[str, int] | None = None
    try:
        headers = {"Authorization": f"Bearer {key}"}
        async with session.post(url + "/v1/chat/completions", json=body, headers=headers) as response:
            data = await response.read()
            if response.status == 200 and stream and data.endswith(b"data: [DONE]\n\n"):
                events = [line[6:] for line in data.splitlines() if line.startswith(b"data: {")]
                usage = json.loads(events[-1])["usage"]
            elif response.status == 200 and not stream:
                usage = json.loads(data)["usage"]
    except (aiohttp.ClientError, ValueError):
        await asyncio.sleep(0.2)
    if usage is None:
        mine.failed += 1
        return
    mine.uncertain[key] -= 1
    mine.answered[key] += usage["total_tokens"]
    mine.ends.append((time.monotonic(), key, usage["total_tokens"]))


async def ask_all(url: str, numbers: list[int], counted: dict[str, Counted]) -> None:
    waiting = iter(numbers)

    async def worker() -> None:
        for number in waiting:
            await ask(session, url, number, counted)

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
        await asyncio.gather(*(worker() for _ in range(AT_ONCE)))


def computed(pod: LivePod) -> float:
    found = re.search(r"^ams_pod_compute_seconds_total (\S+)$", pod.client.get("/metrics").text, re.M)
    assert found
    return float(found[1])


def report(port: int, group: str) -> list[dict[str, Any]]:
    answer = Client(port).request("GET", f"/admin/usage?group={group}", b"", {"Authorization": f"Bearer {ADMIN}"})
    assert answer.status == 200, answer.body
    rows: list[dict[str, Any]] = answer.json()["rows"]
    return rows


@pytest.mark.timeout(1800)
async def test_tokens_are_what_clients_counted_and_compute_seconds_add_up(folder: Path, long_llama: Path) -> None:
    scopes = (Scope.GENERATE, Scope.ADMIN)
    stored = tuple(
        StoredKey(id=f"k-{number}", name=f"team-{number}", secrets=(Secret(sha256=hash_of(key)),), scopes=scopes)
        for number, key in enumerate([*KEYS, ADMIN])
    )
    (folder / "keys.json").write_bytes(write_keys(KeyFile(keys=stored)))
    names = {key: f"team-{number}" for number, key in enumerate(KEYS)}
    counted = {"steady": Counted(), "shaky": Counted()}
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    thirds = [list(range(start, REQUESTS, 3)) for start in range(3)]
    killed_at = [0.0]
    lost_compute = 0.0

    async def kill_in_the_middle(process: subprocess.Popen[bytes], model: str) -> None:
        """When a third of what is left was answered."""
        before = sum(len(each.ends) for each in counted.values())
        while sum(len(each.ends) for each in counted.values()) < before + REQUESTS // 9:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        killed_at[0] = time.monotonic()
        process.send_signal(signal.SIGKILL)

    with pod_process(folder, long_llama, "steady") as (steady, _):
        steady.wait_ready()
        with pod_process(folder, long_llama, "shaky") as (shaky, shaky_process):
            shaky.wait_ready()
            with gateway(folder, port, steady, shaky) as process:
                await ask_all(url, thirds[0], counted)
                await asyncio.sleep(_COLLECTED_SECONDS)
                assert report_matches(report(port, "key,model,outcome"), counted, names, 0.0)
                lost_compute = computed(shaky)
                asking = asyncio.create_task(ask_all(url, thirds[1], counted))
                await kill_in_the_middle(shaky_process, "shaky")
                shaky_process.wait()
                with pod_process(folder, long_llama, "shaky") as (again, _):
                    again.wait_ready()
                    await asking
                    await asyncio.sleep(_COLLECTED_SECONDS)
                    assert report_matches(report(port, "key,model,outcome"), counted, names, 0.0)
                    asking = asyncio.create_task(ask_all(url, thirds[2], counted))
                    await kill_in_the_middle(process, "")
                    process.wait()
                    # Clients read what lies in their sockets, before the start of a gateway holds up this loop.
                    await asyncio.sleep(_READ_LATE_SECONDS / 2)
                    with gateway(folder, port, steady, again):
                        await asking
                        await asyncio.sleep(_COLLECTED_SECONDS)
                        rows = report(port, "key,model,outcome")
                        assert report_matches(rows, counted, names, killed_at[0])
                        by_model = {row["model"]: row["compute_seconds"] for row in report(port, "model")}
                        busy = computed(steady)
                        told = by_model["steady"]
                        print(f"steady: busy {busy:.3f} s, told {told:.3f} s ({told / busy:.4f})")
                        print(f"shaky: {lost_compute:.3f} s before its kill, {computed(again):.3f} s after it")
                        print({model: (sum(each.answered.values()), each.failed) for model, each in counted.items()})
                        # What was answered within the last second before the gateway was killed may be lost.
                        assert 0.99 * busy - LOST_SECONDS * (REQUESTS < 5000) <= told <= 1.01 * busy
                        shaky_busy = lost_compute + computed(again)  # and what was told before it was killed
                        assert by_model["shaky"] >= 0.99 * shaky_busy - LOST_SECONDS


def report_matches(
    rows: list[dict[str, Any]], counted: dict[str, Counted], names: dict[str, str], killed_at: float
) -> bool:
    """Whether the ledger has for each key and model what its clients counted; shows what differs.

    Around a kill of the gateway two things are uncertain: what it answered within a second before may not have been
    written, and what it had written may not have reached its client.
    """
    good = True
    for model, mine in counted.items():
        for key, name in names.items():
            told = sum(
                row["prompt_tokens"] + row["completion_tokens"]
                for row in rows
                if (row["model"], row["key"], row["outcome"]) == (model, name, "answered")
            )
            late = sum(
                tokens
                for end, whose, tokens in mine.ends
                if whose == key and -_READ_LATE_SECONDS <= killed_at - end < LOST_SECONDS
            )
            most = mine.answered[key] + (200 * mine.uncertain[key] if killed_at else 0)
            if not mine.answered[key] - late <= told <= most:
                print(
                    f"{model} {name}: the ledger has {told}, clients counted {mine.answered[key]} ({late} of it late)"
                )
                good = False
    return good
