"""One gateway as several processes: what each gets, what they tell together, and that none is missed."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from ams_common.demand import DemandReport, ModelDemand
from ams_common.options import OptionError
from ams_gateway.front.log import write_lines
from ams_gateway.processes.merging import merged_demand, merged_metrics
from ams_gateway.processes.plan import Part, check_processes, may_restart, part_of, settings_of
from ams_gateway.settings import GatewaySettings
from prometheus_client.parser import text_string_to_metric_families
from test_gateway.gateway_fakes import Exchange, FakePod
from test_gateway.redis_server import RedisServer, redis_server

SEVERAL = {"processes": 4, "redis_url": "redis://h", "metrics_port": 9090}


@pytest.mark.parametrize(
    ("settings", "missing"),
    [
        ({"processes": 4, "metrics_port": 9090}, "--redis-url"),
        ({"processes": 4, "redis_url": "redis://h"}, "--metrics-port"),
        ({**SEVERAL, "port": 0}, "--port"),
    ],
)
def test_several_processes_need_what_they_share(settings: dict[str, object], missing: str) -> None:
    with pytest.raises(OptionError, match=missing):
        check_processes(GatewaySettings(**settings))


def test_one_process_and_several_with_everything_are_fine() -> None:
    check_processes(GatewaySettings())
    check_processes(GatewaySettings(**SEVERAL))


def test_a_process_gets_its_share_of_room_and_a_file_of_its_own() -> None:
    whole = GatewaySettings(**SEVERAL, usage_file="/usage.db", body_memory_bytes=64 << 20, spool_bytes=2 << 20)
    parts = [settings_of(whole, Part(number, "/s")) for number in range(4)]
    assert [part.usage_file for part in parts] == ["/usage.db", "/usage.db.1", "/usage.db.2", "/usage.db.3"]
    assert {(part.body_memory_bytes, part.spool_bytes) for part in parts} == {(16 << 20, 1 << 20)}


def test_a_part_comes_back_from_its_variable() -> None:
    part = Part(3, "/tmp/a:b.sock")
    assert part_of(part.variable) == part
    assert part_of("") is None
    for wrong in ("1", "x:/s", "1:", ":/s", "²:/s"):
        with pytest.raises(OptionError):
            part_of(wrong)


def test_a_process_that_keeps_ending_is_given_up() -> None:
    assert may_restart([1.0, 2.0, 3.0, 4.0], 5.0)
    assert not may_restart([1.0, 2.0, 3.0, 4.0, 5.0], 5.0)
    assert may_restart([1.0, 2.0, 3.0, 4.0, 100.0], 100.0)


def test_demand_adds_up_and_a_model_is_idle_since_its_last_request_anywhere() -> None:
    reports = [
        DemandReport(3, {"a": ModelDemand(1, 2, 0.0), "b": ModelDemand(0, 0, 9.0)}),
        DemandReport(4, {"a": ModelDemand(5, 0, 0.0), "b": ModelDemand(0, 0, 4.0), "c": ModelDemand(0, 0, None)}),
    ]
    assert merged_demand(reports) == DemandReport(
        7, {"a": ModelDemand(6, 2, 0.0), "b": ModelDemand(0, 0, 4.0), "c": ModelDemand(0, 0, None)}
    )


def test_series_of_all_processes_stand_below_one_heading() -> None:
    page = (
        '# HELP x_total Xs.\n# TYPE x_total counter\nx_total{model="m"} %d\n'
        '# HELP h Hs.\n# TYPE h histogram\nh_bucket{le="1.0"} 1\nh_bucket{le="+Inf"} 2\nh_count 2\nh_sum 3\n'
    )
    body, kind = merged_metrics({0: page % 5, 1: page % 7}, "")
    text = body.decode()
    assert kind.startswith("text/plain")
    assert text.count("# TYPE x_total counter") == text.count("# TYPE h histogram") == 1
    assert 'x_total{model="m",process="0"} 5.0' in text
    assert 'x_total{model="m",process="1"} 7.0' in text
    assert 'h_bucket{le="+Inf",process="1"} 2.0' in text
    open_metrics, _ = merged_metrics({0: page % 5, 1: page % 7}, "application/openmetrics-text; version=1.0.0")
    assert open_metrics.endswith(b"# EOF\n")


def test_lines_of_processes_never_mix() -> None:
    """Eight processes write half a megabyte each into one pipe, which is read slowly."""
    line = b'{"id": "%d", "path": "' + b"x" * 300 + b'"}\n'
    read, write = os.pipe()
    children = []
    for number in range(8):
        if (child := os.fork()) == 0:
            os.dup2(write, 1)
            write_lines(b"".join([line % number] * 1500))
            os._exit(0)
        children.append(child)
    os.close(write)
    with open(read, "rb") as pipe:
        lines = pipe.read().splitlines(keepends=True)
    for child in children:
        os.waitpid(child, 0)
    expected = {line % number for number in range(8)}
    assert len(lines) == 8 * 1500
    assert set(lines) == expected


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as server:
        yield server


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Several:
    """A gateway of two processes, as a command."""

    def __init__(self, redis: RedisServer, backend: str, folder: Path) -> None:
        self.port, self.metrics_port = free_port(), free_port()
        command = [sys.executable, "-c", "from ams_gateway.main import main; main()", "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--metrics-port", str(self.metrics_port), "--processes", "2"]
        command += ["--redis-url", redis.url, "--backend", f"m={backend}", "--usage-file", str(folder / "usage.db")]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self.url, self.metrics_url = f"http://127.0.0.1:{self.port}", f"http://127.0.0.1:{self.metrics_port}"

    def children(self) -> list[int]:
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in listed.split()]

    async def until_ready(self, client: aiohttp.ClientSession) -> None:
        async with asyncio.timeout(30):
            while True:
                try:
                    async with client.get(self.metrics_url + "/ready") as answer:
                        if answer.status == 200:
                            return
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.1)


@asynccontextmanager
async def several(
    redis: RedisServer, pod: FakePod, folder: Path
) -> AsyncIterator[tuple[Several, aiohttp.ClientSession]]:
    gateway = Several(redis, pod.address, folder)
    try:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as client:
            await gateway.until_ready(client)
            yield gateway, client
    finally:
        gateway.process.kill()
        gateway.process.communicate()


async def test_two_processes_are_one_gateway(redis: RedisServer, pod, tmp_path: Path) -> None:
    release = asyncio.Event()

    async def answer(exchange: Exchange) -> None:
        if b"wait" in exchange.request.body:
            await release.wait()
        await exchange.json(200, {"response": "hello"}, X_AMS_Usage="prompt=3 completion=2")

    async with several(redis, await pod(answer), tmp_path) as (gateway, client):

        async def ask(prompt: str) -> int:
            async with client.post(gateway.url + "/generate/m", json={"prompt": prompt}) as response:
                return response.status

        assert [await ask("hi") for _ in range(40)] == [200] * 40
        async with client.get(gateway.metrics_url + "/metrics") as response:
            page = await response.text()
        by_process = {
            sample.labels["process"]: sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if sample.name == "ams_gateway_requests_total" and sample.labels["code"] == "200"
            and sample.labels["model"] == "m"
        }  # fmt: skip
        assert sum(by_process.values()) == 40
        assert set(by_process) == {"0", "1"}
        async with client.get(gateway.url + "/metrics") as response:
            assert response.status == 404

        waiting = [asyncio.create_task(ask("wait")) for _ in range(6)]
        await asyncio.sleep(0.3)
        async with client.get(gateway.metrics_url + "/internal/demand") as response:
            report = await response.json()
        assert report["models"]["m"]["in_flight"] == 6
        began = time.monotonic()
        async with client.get(f"{gateway.metrics_url}/internal/demand?since={report['version']}&wait=0.5") as response:
            again = await response.json()
        assert 0.4 < time.monotonic() - began < 5, "a report without news is held back"
        assert again == report

        # A process that is killed takes its requests along, and another takes its place.
        first, second = gateway.children()
        os.kill(first, signal.SIGKILL)
        async with asyncio.timeout(20):
            while len(gateway.children()) < 2 or first in gateway.children():  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        assert second in gateway.children()
        await gateway.until_ready(client)
        assert [await ask("hi") for _ in range(10)] == [200] * 10

        # Asked to stop, it finishes what it has.
        gateway.process.terminate()
        await asyncio.sleep(0.3)
        release.set()
        done = await asyncio.gather(*waiting, return_exceptions=True)
        assert 200 in done
        assert {each for each in done if isinstance(each, int)} == {200}
        assert await asyncio.to_thread(gateway.process.wait, 15) == 0


async def test_no_process_outlives_the_first(redis: RedisServer, pod, tmp_path: Path) -> None:
    async with several(redis, await pod(), tmp_path) as (gateway, _):
        children = gateway.children()
        gateway.process.kill()
        deadline = time.monotonic() + 15
        while any(_runs(child) for child in children):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
