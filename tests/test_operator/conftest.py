"""The operator against a real API server."""

import asyncio
from collections.abc import Iterator

import pytest
from ams_kube.client import Client
from kube_cluster import NAMESPACES, ControlPlane, control_plane, kube, make_namespace, namespace
from operator_process import OperatorProcess, operating

pytest_plugins: list[str] = []
__all__ = ["control_plane", "kube", "namespace"]


@pytest.fixture(scope="module")
def home(control_plane: ControlPlane) -> Iterator[str]:
    """A namespace for all tests of a module."""
    name = asyncio.run(_with_client(control_plane, make_namespace))
    yield name
    asyncio.run(_with_client(control_plane, lambda client: client.delete(NAMESPACES, None, name)))


async def _with_client(plane: ControlPlane, act: object) -> str:
    async with await Client.connect("tests", kubeconfig=str(plane.kubeconfig)) as client:
        return await act(client)  # type: ignore[operator]


@pytest.fixture(scope="module")
def operator(
    control_plane: ControlPlane, home: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OperatorProcess]:
    """One that leads, for the module's namespace."""
    with operating(control_plane, tmp_path_factory.mktemp("operator") / "log", home) as process:
        yield process
