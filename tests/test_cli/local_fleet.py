"""A fleet whose processes are fake pods: real processes and sockets, no model."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from ams_cli.fleet import Fleet
from ams_cli.jobs import ProcessSetup, RunFolders
from ams_cli.liveness import LivenessSettings
from ams_cli.processes.launcher import Programs
from ams_cli.processes.process import Launcher
from ams_cli.processes.subprocesses import Subprocesses
from ams_cli.supervisor import Supervisor
from ams_common.resource.parse import parse_model_deployment
from ams_common.resource.spec import ModelDeployment
from ams_gateway.broadcast import Broadcast

FAKE_POD = str(Path(__file__).with_name("fake_pod.py"))
POD = (sys.executable, FAKE_POD)
PROGRAMS = Programs(pod=POD, forkserver=(sys.executable, FAKE_POD, "forkserver"))


def resource(name: str = "m", *, on_demand: bool = True, **spec: Any) -> ModelDeployment:
    """A model whose FAKE_… variables come from `env`, a dict, and whose other fields are the manifest's."""
    env = [{"name": key, "value": value} for key, value in spec.pop("env", {}).items()]
    if on_demand:
        spec.setdefault("autoscaling", {})
    return parse_model_deployment(
        {
            "apiVersion": "aimodelserver.io/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": name},
            "spec": {"model": {"source": "hf://a/b"}, "env": env, **spec},
        }
    )


class Watched:
    """A running fleet, with a memory of each model's steps."""

    def __init__(
        self, resources: tuple[ModelDeployment, ...], folder: Path, serve: Launcher | None, memory_limit: int | None
    ) -> None:
        self.places = RunFolders(folder / "models", folder / "logs", folder / "run")
        for each in (self.places.models_dir, self.places.log_dir, self.places.run_dir):
            each.mkdir()
        pods = Subprocesses(POD)
        self.steps: dict[str, list[str]] = {each.metadata.name: ["pending"] for each in resources}
        self._changes = Broadcast()
        setup = ProcessSetup(
            self.places, serve or pods, pods, grace_seconds=1.0, memory_limit=memory_limit,
            liveness=LivenessSettings(interval_seconds=0.05, answer_seconds=0.3),
        )  # fmt: skip
        self.fleet = Fleet(resources, setup, self._changed)

    def _changed(self, supervisor: Supervisor) -> None:
        steps = self.steps[supervisor.name]
        if not steps or steps[-1] != supervisor.progress.phase:
            steps.append(supervisor.progress.phase)
        self._changes.notify()

    def supervisor(self, name: str = "m") -> Supervisor:
        return self.fleet.supervisors[name]

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for a step after which `condition` is true."""
        async with asyncio.timeout(20):
            while not condition():
                await self._changes.changed_since(self._changes.version)

    async def demand(self, name: str = "m") -> list[str]:
        """Wait until the model is ready, as the gateway does; the phases that were seen."""
        model = self.fleet.find(name)
        assert model is not None
        async with asyncio.timeout(20):
            return [progress.phase async for progress in self.fleet.wait_ready(model)]

    async def ask(self, name: str = "m", path: str = "/generate") -> dict[str, Any]:
        """A request to the ready model."""
        model = self.fleet.find(name)
        assert model is not None
        (backend,) = self.fleet.backends(model)
        connector = aiohttp.UnixConnector(backend.address.removeprefix("unix://"))
        async with aiohttp.ClientSession(connector=connector) as session, session.post(f"http://pod{path}") as response:
            return json.loads(await response.read())

    def starts(self, job: str) -> list[int]:
        """The processes that were started for a job, by pid."""
        path = self.places.models_dir / f"{job}-starts"
        return [int(line) for line in path.read_text().splitlines()] if path.exists() else []


@asynccontextmanager
async def running(
    folder: Path, *resources: ModelDeployment, serve: Launcher | None = None, memory_limit: int | None = None
) -> AsyncIterator[Watched]:
    watched = Watched(resources, folder, serve, memory_limit)
    watched.fleet.start()
    try:
        yield watched
    finally:
        async with asyncio.timeout(30):
            await watched.fleet.close()


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"  # a zombie


async def gone(pids: list[int], pause: Callable[[float], Awaitable[None]] = asyncio.sleep) -> bool:
    """Whether all processes end within a few seconds; there is no event of another's child to wait for."""
    for _ in range(200):
        if not any(map(is_running, pids)):
            return True
        await pause(0.05)
    return False
