"""A real API server for tests: $KUBECONFIG if that is set, else a control plane of its own.

The scripts of the test cluster are looked for in $AMS_TEST_CLUSTER, else beside the checkout in `shared/cluster`.
"""

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from ams_common import crd
from ams_common.names import GROUP, PLURAL
from ams_kube.client import Client
from ams_kube.errors import Conflict, KubeError, NotFound
from ams_kube.kinds import Kind

ROOT = Path(__file__).parents[2]
_UP_SECONDS, _TRIES = 45, 2
_BACK_SECONDS = 120


class Metadata(msgspec.Struct, rename="camel", kw_only=True):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    owner_references: list[dict[str, object]] = []
    deletion_timestamp: str | None = None


class Anything(msgspec.Struct, kw_only=True):
    """Any object, its fields as plain data."""

    metadata: Metadata
    kind: str = ""
    spec: dict[str, object] = {}
    status: dict[str, object] = {}
    data: dict[str, str] = {}


NAMESPACES = Kind("v1", "Namespace", "namespaces", Anything)
DEFINITIONS = Kind("apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions", Anything)


@dataclass
class ControlPlane:
    """`folder` is the cluster's own state, None for somebody else's cluster."""

    kubeconfig: Path
    folder: Path | None
    _server: "subprocess.Popen[bytes] | None" = None

    def kill_api_server(self) -> None:
        """At once, connections and all; `start_api_server` brings it back on the same port."""
        pid, _ = self._pid_file().read_text().split()
        self._command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
        if self._server is not None:
            self.reap()
            return
        os.kill(int(pid), signal.SIGKILL)
        deadline = time.monotonic() + 10
        while _started(int(pid)) is not None and time.monotonic() < deadline:
            time.sleep(0.02)

    def start_api_server(self) -> None:
        assert self.folder is not None
        with (self.folder / "log" / "kube-apiserver.log").open("ab") as log:
            process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self._server = process
        self._pid_file().write_text(f"{process.pid} {_started(process.pid)}\n")

    async def answers(self, kube: Client) -> None:
        """Wait until the API server takes requests again, and start it anew if it ends meanwhile.

        Its port lies where the machine takes ports of outgoing connections from: another process may hold it for a
        while, and the server then ends at once. A kubelet would start it again, too.
        """
        deadline = time.monotonic() + _BACK_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(KubeError):
                await kube.request("GET", "/readyz")
                return
            if self._server is not None and self._server.poll() is not None:
                self.start_api_server()
            await asyncio.sleep(0.1)
        assert self.folder is not None
        log = (self.folder / "log" / "kube-apiserver.log").read_text(errors="replace")
        pytest.fail(f"the API server did not come back within {_BACK_SECONDS} seconds:\n{log[-4000:]}")

    @contextlib.contextmanager
    def without_scheduler(self) -> Iterator[None]:
        """It says nothing of pods meanwhile, and so writes nothing over what a test says of them as the scheduler."""
        if self.folder is None:
            yield
            return
        pid = int((self.folder / "run" / "kube-scheduler.pid").read_text().split()[0])
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def reap(self) -> None:
        """The API server that was started here is a child of this process: `down` must not find a zombie."""
        if self._server is not None:
            self._server.kill()
            self._server.wait(10)

    def _pid_file(self) -> Path:
        assert self.folder is not None
        return self.folder / "run" / "kube-apiserver.pid"


def _started(pid: int) -> str | None:
    """A process's start time, as the scripts note it; None once it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def scripts() -> Path | None:
    """Folder of the test cluster's `up` and `down`."""
    places = [os.environ.get("AMS_TEST_CLUSTER", ""), str(ROOT.parent / "shared" / "cluster")]
    return next((Path(place) for place in places if place and (Path(place) / "up").is_file()), None)


def _be_ordinary() -> None:
    """An AV1 encoder, as tests of media use one, makes its caller a real-time process where that is root.

    What is started then inherits it, and two busy real-time processes leave a small machine to nobody else.
    """
    if hasattr(os, "sched_setscheduler"):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


@contextlib.contextmanager
def bring_up() -> Iterator[ControlPlane]:
    """A control plane without nodes, in a folder of its own; removed afterwards."""
    here = scripts()
    if here is None:
        pytest.skip("no cluster: set KUBECONFIG, or AMS_TEST_CLUSTER to the folder of the test cluster's scripts")
    _be_ordinary()
    said = ""
    for _ in range(_TRIES):
        folder = Path(tempfile.mkdtemp(prefix="ams-cp-"))
        plane = ControlPlane(folder / "kubeconfig", folder)
        try:
            if (said := _up(here, folder)) == "":
                yield plane
                return
        finally:
            plane.reap()
            _take_down(here, folder)
    pytest.fail(f"the control plane did not come up:\n{said}")


def _up(here: Path, folder: Path) -> str:
    """What went wrong; empty if it is up. A start that hangs is given up, as its processes may spin for ever."""
    environment = {**os.environ, "CLUSTER_DIR": str(folder)}
    command = [here / "up", "--control-plane-only"]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_UP_SECONDS)
    except subprocess.TimeoutExpired:
        return f"nothing after {_UP_SECONDS} seconds"
    return "" if done.returncode == 0 else f"{done.stdout[-2000:]}{done.stderr[-2000:]}" or f"status {done.returncode}"


def _take_down(here: Path, folder: Path) -> None:
    """Without --purge, which would take the unpacked binaries of clusters beside this one."""
    environment = {**os.environ, "CLUSTER_DIR": str(folder)}
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run([here / "down"], env=environment, capture_output=True, timeout=30)
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(folder).encode() in (process / "cmdline").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """An API server that knows ModelDeployments."""
    if given := os.environ.get("KUBECONFIG"):
        plane = ControlPlane(Path(given), None)
        asyncio.run(_apply_definition(plane))
        yield plane
        return
    with bring_up() as plane:
        asyncio.run(_apply_definition(plane))
        yield plane


@pytest.fixture
async def kube(control_plane: ControlPlane) -> AsyncIterator[Client]:
    async with await Client.connect("tests", kubeconfig=str(control_plane.kubeconfig)) as client:
        yield client


@pytest.fixture
async def namespace(kube: Client) -> AsyncIterator[str]:
    """A fresh one."""
    name = await make_namespace(kube)
    yield name
    await kube.delete(NAMESPACES, None, name)


async def make_namespace(kube: Client, **labels: str) -> str:
    name = f"test-{secrets.token_hex(4)}"
    await kube.create(NAMESPACES, None, {"metadata": {"name": name, "labels": labels}})
    return name


async def _apply_definition(plane: ControlPlane) -> None:
    async with await Client.connect("tests", kubeconfig=str(plane.kubeconfig)) as client:
        definition = crd.definition()
        with contextlib.suppress(Conflict):
            await client.apply(DEFINITIONS, None, f"{PLURAL}.{GROUP}", definition, manager="tests")
        probe = Kind("aimodelserver.io/v1alpha1", "ModelDeployment", PLURAL, Anything)
        async with asyncio.timeout(30):
            while True:
                with contextlib.suppress(NotFound):
                    await client.list(probe, "default")
                    return
                await asyncio.sleep(0.1)
