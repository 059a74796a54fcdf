"""The operator with many ModelDeployments on a real API server.

    python benchmarks/operator_scale.py [--count 1000] [--kubeconfig PATH]

Without --kubeconfig a control plane of its own is brought up (see tests/test_kube/kube_cluster.py). Writes
benchmarks/results/operator.json. The control plane's own processes share the machine's processors.
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "test_kube"), str(ROOT / "tests" / "test_operator")]

import models  # noqa: E402
from ams_kube.client import Client  # noqa: E402
from ams_kube.kinds import Kind  # noqa: E402
from ams_kube.reflector import Reflector  # noqa: E402
from kube_cluster import Anything, ControlPlane, _apply_definition, bring_up, make_namespace  # noqa: E402
from operator_process import OperatorProcess  # noqa: E402

_TICKS = os.sysconf("SC_CLK_TCK")
_IDLE_SECONDS = 60
_EDITS = 60
_PAUSE_SECONDS = 0.2


class Usage:
    """CPU seconds and memory of a process."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def peak_mib(self) -> float:
        lines = Path(f"/proc/{self._pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


class Seen:
    """Objects of a kind as a watch delivers them, and when each was last changed."""

    def __init__(self, kube: Client, kind: Kind[Any], namespace: str) -> None:
        self.objects: dict[str, Anything] = {}
        self.changed = asyncio.Event()
        self._reflector = Reflector(kube, kind, self._take, self._forget, namespace=namespace)

    def _take(self, given: Anything) -> None:
        self.objects[given.metadata.name] = given
        self.changed.set()

    def _forget(self, key: str) -> None:
        self.objects.pop(key.partition("/")[2], None)
        self.changed.set()

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._reflector.run())
        await self._reflector.synced.wait()
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def until_count(self, prefix: str, count: int) -> None:
        while sum(name.startswith(prefix) for name in self.objects) < count:
            self.changed.clear()
            await self.changed.wait()


async def measure(plane: ControlPlane, count: int) -> dict[str, Any]:
    async with await Client.connect("benchmark", kubeconfig=str(plane.kubeconfig), connections=64) as kube:
        namespace = await make_namespace(kube)
        log = Path(tempfile.mkstemp(prefix="ams-operator-")[1])
        process = OperatorProcess(plane, log, namespace, log_format="console")
        deployments = Seen(kube, models.DEPLOYMENTS, namespace)
        claims = Seen(kube, models.CLAIMS, namespace)
        services = Seen(kube, models.SERVICES, namespace)
        process.start()
        try:
            process.until_leading()
            async with deployments.watching(), claims.watching(), services.watching():
                return await _phases(kube, plane, process, namespace, count, deployments, (claims, services))
        finally:
            process.kill()


async def _phases(
    kube: Client, plane: ControlPlane, process: OperatorProcess, namespace: str, count: int,
    deployments: Seen, others: tuple[Seen, ...],
) -> dict[str, Any]:  # fmt: skip
    found: dict[str, Any] = {"count": count}
    usage = Usage(process.pid)
    slots = asyncio.Semaphore(16)

    async def create(number: int) -> None:
        async with slots:
            await models.create(kube, namespace, f"model-{number}", models.model())

    began = time.perf_counter()
    async with asyncio.timeout(300):
        await asyncio.gather(*(create(number) for number in range(count)))
        found["created_seconds"] = round(time.perf_counter() - began, 1)
        for seen in (deployments, *others):
            await seen.until_count("ams-model-", count)
    found["all_children_seconds"] = round(time.perf_counter() - began, 1)
    await settled(process)
    found["settled_seconds"] = round(time.perf_counter() - began, 1)
    found["cpu_seconds_until_settled"] = round(usage.cpu_seconds(), 1)
    print(json.dumps(found), flush=True)

    cpu, writes = usage.cpu_seconds(), process.writes()
    requests = process.metrics()["ams_operator_api_requests_total"]
    await asyncio.sleep(_IDLE_SECONDS)
    found["idle_cpu_percent"] = round(100 * (usage.cpu_seconds() - cpu) / _IDLE_SECONDS, 2)
    found["idle_writes"] = process.writes() - writes
    found["writes"] = written(process)
    found["idle_api_requests_a_minute"] = process.metrics()["ams_operator_api_requests_total"] - requests
    print(json.dumps(found), flush=True)

    found["edit_to_patched_ms"] = await _edits(
        kube, namespace, count, deployments, lambda number: {"rollout": {"strategy": "Surge"}}, "RollingUpdate"
    )
    print(json.dumps(found), flush=True)
    found["edit_that_rolls_the_pod_to_patched_ms"] = await _edits(
        kube, namespace, count, deployments, lambda number: {"limits": {"maxNewTokens": 9000}}, '"9000"'
    )
    await settled(process)
    found["peak_rss_mib"] = round(usage.peak_mib(), 1)
    print(json.dumps(found), flush=True)

    process.stop()
    versions = {name: each.metadata.resource_version for name, each in deployments.objects.items()}
    began = time.perf_counter()
    process.start()
    process.until_leading()
    await settled(process)
    found["restart_steady_seconds"] = round(time.perf_counter() - began, 2)
    found["restart_writes"] = sum(
        value for name, value in process.metrics().items() if name.startswith("ams_operator_writes_total")
    )
    changed = [name for name, each in deployments.objects.items() if versions[name] != each.metadata.resource_version]
    found["restart_changed_deployments"] = len(changed)
    found["restart_peak_rss_mib"] = round(Usage(process.pid).peak_mib(), 1)
    began = time.perf_counter()
    process.stop()
    found["shutdown_seconds"] = round(time.perf_counter() - began, 2)
    return found


def written(process: OperatorProcess) -> dict[str, float]:
    """Writes by kind since the operator started."""
    prefix = 'ams_operator_writes_total{kind="'
    return {
        name.removeprefix(prefix).removesuffix('"}'): value
        for name, value in process.metrics().items()
        if name.startswith(prefix)
    }


async def _edits(
    kube: Client, namespace: str, count: int, deployments: Seen, spec: Callable[[int], dict[str, Any]], words: str
) -> dict[str, float]:
    """Milliseconds from the answer to an edit until its Deployment is seen patched, one edit after the other."""
    waits = []
    for number in range(_EDITS):
        name = f"model-{number * 7 % count}"
        await kube.merge(models.MODELS, namespace, name, {"spec": spec(number)})
        edited = time.perf_counter()
        async with asyncio.timeout(30):
            while words not in json.dumps(deployments.objects[f"ams-{name}"].spec):
                deployments.changed.clear()
                await deployments.changed.wait()
        waits.append(1000 * (time.perf_counter() - edited))
        await asyncio.sleep(_PAUSE_SECONDS)
    waits.sort()
    return {"p50": round(statistics.median(waits), 1), "p95": round(waits[int(0.95 * len(waits))], 1)}


async def settled(process: OperatorProcess) -> None:
    """Until every resource was looked at and nothing is looked at any more."""
    before = -1.0
    while True:
        metrics = await asyncio.to_thread(process.metrics)
        count = sum(value for name, value in metrics.items() if name.startswith("ams_operator_reconciles_total"))
        if count and count == before and metrics["ams_operator_queue_depth"] == 0:
            return
        before = count
        await asyncio.sleep(0.5)


@contextlib.contextmanager
def plane_of(kubeconfig: str | None) -> Iterator[ControlPlane]:
    if kubeconfig is not None:
        yield ControlPlane(Path(kubeconfig), None)
        return
    with bring_up() as plane:
        yield plane


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--kubeconfig")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "operator.json")
    options = parser.parse_args()
    with plane_of(options.kubeconfig) as plane:
        asyncio.run(_apply_definition(plane))
        figures = asyncio.run(measure(plane, options.count))
    load = [round(each, 1) for each in os.getloadavg()]
    machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "load_average_at_the_end": load}
    result = {"machine": machine, "operator": figures}
    options.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
