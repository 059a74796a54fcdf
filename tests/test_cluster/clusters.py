"""Kubernetes clusters that end-to-end tests can use, and how locally built images get into them."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_BUILD_SECONDS = 1800


class NoCluster(Exception):
    """None is here; the message says what was looked for."""


def run(*command: str | Path, timeout: float = 120, **options: object) -> str:
    """The standard output; AssertionError with everything that was said if it fails."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=timeout, **options)  # type: ignore[call-overload]
    said = f"{' '.join(map(str, command))}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    assert done.returncode == 0, said
    return str(done.stdout)


@dataclass(frozen=True)
class Cluster:
    """`environment` has KUBECONFIG and a PATH with kubectl and helm."""

    environment: dict[str, str]
    kind: str
    ingress_class = ""

    def build(self, tag: str, context: Path, dockerfile: Path, **arguments: str) -> None:
        """Build an image and bring it into the cluster."""
        raise NotImplementedError

    def ingress(self) -> str | None:
        """Base URL of an ingress controller, None if the cluster has none."""
        return None

    def api_server(self) -> int | None:
        """The API server's process, where it is one of this machine that may be stopped."""
        return None


@dataclass(frozen=True)
class ScriptedCluster(Cluster):
    """The cluster of a folder with the scripts up, build-image and ingress."""

    folder: Path
    ingress_class = "traefik"

    def build(self, tag: str, context: Path, dockerfile: Path, **arguments: str) -> None:
        given = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
        run(self.folder / "build-image", "-t", tag, "-f", dockerfile, *given, context, timeout=_BUILD_SECONDS)

    def ingress(self) -> str | None:
        said = run(self.folder / "ingress")
        return said.rsplit(" ", 1)[-1].strip()

    def api_server(self) -> int | None:
        state = Path(self.environment["KUBECONFIG"]).parent
        for process in Path("/proc").glob("[0-9]*"):
            try:
                words = (process / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"kube-apiserver" in words and any(str(state).encode() in word for word in words):
                return int(process.name)
        return None


@dataclass(frozen=True)
class Kind(Cluster):
    """A cluster of `kind`, with images built by docker."""

    name: str

    def build(self, tag: str, context: Path, dockerfile: Path, **arguments: str) -> None:
        given = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
        run("docker", "build", "-t", tag, "-f", dockerfile, *given, context, timeout=_BUILD_SECONDS)
        run("kind", "load", "docker-image", tag, "--name", self.name, timeout=600)


def find(wanted: str) -> Cluster:
    """`wanted` is `kind`, the path of a folder of scripts, or empty for whatever there is. NoCluster."""
    if wanted != "kind":
        folder = Path(wanted or os.environ.get("AMS_TEST_CLUSTER", "") or ROOT.parent / "shared" / "cluster")
        if (folder / "up").is_file():
            return _scripted(folder.resolve())
        if wanted:
            raise NoCluster(f"{folder} has no script `up`")
    if shutil.which("kind") and shutil.which("docker"):
        return _kind()
    raise NoCluster("there is neither a test cluster's folder (AMS_TEST_CLUSTER) nor kind with docker")


def _scripted(folder: Path) -> Cluster:
    said = run(folder / "up", timeout=300)
    environment = dict(os.environ)
    for line in said.splitlines():
        if line.startswith("export "):
            name, _, value = line.removeprefix("export ").partition("=")
            environment[name] = value.replace("$PATH", os.environ["PATH"])
    return ScriptedCluster(environment, "scripted", folder)


def _kind() -> Cluster:
    name = "ams-e2e"
    if name not in run("kind", "get", "clusters").split():
        run("kind", "create", "cluster", "--name", name, "--wait", "120s", timeout=600)
    kubeconfig = ROOT / "tmp" / "kind.kubeconfig"
    kubeconfig.parent.mkdir(exist_ok=True)
    kubeconfig.write_text(run("kind", "get", "kubeconfig", "--name", name))
    return Kind({**os.environ, "KUBECONFIG": str(kubeconfig)}, "kind", name)


def down() -> int:
    """Take down what `find` brought up. For `make e2e`, after the tests."""
    wanted = os.environ.get("CLUSTER", "")
    folder = Path(wanted or os.environ.get("AMS_TEST_CLUSTER", "") or ROOT.parent / "shared" / "cluster")
    if wanted != "kind" and (folder / "down").is_file():
        subprocess.run([folder / "ingress", "stop"], check=False, timeout=60)
        return subprocess.run([folder / "down", "--reset"], check=False, timeout=120).returncode
    return 0


if __name__ == "__main__":
    sys.exit(down())
