"""The whole product here: pods, a gateway with keys, and an operator on a real API server without nodes."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ams_common.keys import KeyFile, Secret, StoredKey, hash_of, write_keys
from ams_kube.client import Client
from ams_kube.kinds import Kind
from kube_cluster import NAMESPACES, Anything, ControlPlane, make_namespace
from models import container, create, model, pod_of, until_condition
from operator_process import OperatorProcess, operating
from prometheus_server import Target
from test_monitoring import product

SLICES: Kind[Any] = Kind("discovery.k8s.io/v1", "EndpointSlice", "endpointslices", Anything)
PODS: Kind[Any] = Kind("v1", "Pod", "pods", Anything)
KEYS = {"team-a": "ams-key-of-team-a", "batch": "ams-key-of-batch"}
HELLO = {"prompt": "hello", "temperature": 0, "max_new_tokens": 8, "ignore_eos": True}


@dataclass
class Whole:
    gateway: product.Server
    pods: list[product.Server]
    operator: OperatorProcess
    plane: ControlPlane
    home: str
    targets: list[Target]

    def load(self) -> list[product.Load]:
        """Requests of every kind: answered, streamed, refused."""
        chat = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8}
        asked: list[tuple[str, dict[str, Any]]] = [
            ("/generate/tiny", HELLO),
            ("/v1/chat/completions", chat),
            ("/v1/chat/completions", {**chat, "stream": True}),
        ]
        refused: list[tuple[str, dict[str, Any]]] = [("/generate/absent", HELLO), ("/generate/tiny", {"prompt": 7})]
        return [
            product.Load(self.gateway, asked, bearer("team-a")),
            product.Load(self.gateway, asked[:1], bearer("batch"), pause=0.2),
            product.Load(self.gateway, refused, bearer("team-a"), pause=0.3),
            product.Load(self.gateway, asked[:1], {"Authorization": "Bearer wrong"}, pause=0.5),
        ]


def bearer(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {KEYS[name]}"}


def write_key_file(path: Path) -> None:
    secrets = {name: (Secret(sha256=hash_of(key)),) for name, key in KEYS.items()}
    keys = (
        StoredKey(id="k-team-a", name="team-a", secrets=secrets["team-a"], monthly_tokens=1_000_000),
        StoredKey(id="k-batch", name="batch", secrets=secrets["batch"], requests_per_minute=3),
    )
    path.write_bytes(write_keys(KeyFile(keys=keys)))


@contextlib.contextmanager
def whole(folder: Path, llama: Path, plane: ControlPlane) -> Iterator[Whole]:
    """Two pods of `tiny`, a gateway, an operator that has seen `tiny` start and `hopeless` fail."""
    folder.mkdir(parents=True, exist_ok=True)
    write_key_file(folder / "keys.json")
    metrics_port = product.free_port()
    with contextlib.ExitStack() as stack:
        pods = [stack.enter_context(product.pod(folder / str(number), llama, "tiny")) for number in range(2)]
        gateway = stack.enter_context(
            product.gateway(
                folder, {"tiny": pods[0].url}, keys_file=folder / "keys.json", metrics_port=metrics_port
            )
        )  # fmt: skip
        home = asyncio.run(with_client(plane, make_namespace))
        asyncio.run(with_client(plane, lambda kube: tell_of_gateway(kube, home, metrics_port)))
        operator = stack.enter_context(
            operating(plane, folder / "operator.log", home, gateway_service=f"{home}/gateway")
        )
        operator.metrics()
        asyncio.run(with_client(plane, lambda kube: start_model(kube, home)))
        targets = [
            *(product.pod_target(pod, "tiny", f"ams-tiny-{number}") for number, pod in enumerate(pods)),
            Target(f"127.0.0.1:{metrics_port}", {"namespace": "ams", "pod": "ams-gateway-0"}),
            Target(f"127.0.0.1:{operator.metrics_port}", {"namespace": "ams", "pod": "ams-operator-0"}),
        ]
        yield Whole(gateway, pods, operator, plane, home, targets)
        asyncio.run(with_client(plane, lambda kube: kube.delete(NAMESPACES, None, home)))


async def with_client(plane: ControlPlane, act: Any) -> Any:
    async with await Client.connect("tests", kubeconfig=str(plane.kubeconfig)) as client:
        return await act(client)


async def tell_of_gateway(kube: Client, home: str, port: int) -> None:
    body = {
        "metadata": {"name": "gateway-1", "labels": {"kubernetes.io/service-name": "gateway"}},
        "addressType": "FQDN",  # as an IPv4 address the API server would refuse loopback
        "endpoints": [{"addresses": ["127.0.0.1"]}],
        "ports": [{"name": "metrics", "port": port, "protocol": "TCP"}],
    }
    await kube.create(SLICES, home, body)


async def start_model(kube: Client, home: str, *, failing: tuple[str, ...] = ("hopeless",)) -> None:
    """As a kubelet would tell it: a node after 1 s, the image after 3, the weights after 7, ready after 12."""
    await create(kube, home, "tiny", model())
    for name in failing:
        await create(kube, home, name, model("hf://acme/absent"))
    pod = await pod_of(kube, home, "tiny")
    began = time.time()

    def at(seconds: float) -> str:
        return datetime.fromtimestamp(began + seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    download = container(
        "download",
        ready=True,
        terminated={"exitCode": 0, "reason": "Completed", "message": "", "startedAt": at(3), "finishedAt": at(7)},
    )
    ready = [
        {"type": "PodScheduled", "status": "True", "lastTransitionTime": at(1)},
        {"type": "Ready", "status": "True", "lastTransitionTime": at(12)},
    ]
    status = {
        "phase": "Running",
        "podIP": "10.0.0.1",
        "podIPs": [{"ip": "10.0.0.1"}],
        "conditions": ready,
        "initContainerStatuses": [download],
        "containerStatuses": [container("serve", ready=True, running={"startedAt": at(8)})],
    }
    path = PODS.path(pod.metadata.namespace, pod.metadata.name, "status")
    body = {"status": status}
    await kube.request("PATCH", path, body=body, content_type="application/strategic-merge-patch+json")
    await until_condition(kube, home, "tiny", "Ready", "True", "Ready")
