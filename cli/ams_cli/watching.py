"""`ams status -w`: the table of models, and after it a line for each change, until Ctrl-C."""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from ams_common.plain import plain_text

from ams_cli.gateway_client import GatewayClient, GatewayError
from ams_cli.model_table import state
from ams_cli.overviews import follow

if TYPE_CHECKING:
    from ams_common.wire import ModelOverview
    from ams_kube.views import ResourceView

_HEADER = ("MODEL", "STATE", "READY", "MESSAGE")
_CLUSTER_HEADER = ("NAMESPACE", "MODEL", "STATE", "READY", "MESSAGE")
_WIDTHS = {"NAMESPACE": 16, "MODEL": 24, "STATE": 36, "READY": 6}

Row = tuple[str, ...]
Say = Callable[[str], None]


class Watched:
    """Which rows are news; cells are as wide as most are, as nobody knows what comes."""

    def __init__(self, header: Row, say: Say) -> None:
        self._widths = [_WIDTHS.get(name, 0) for name in header]
        self._say = say
        self._shown: dict[str, Row] = {}
        self._tell(header)

    def show(self, rows: Mapping[str, Row]) -> None:
        """Rows by the model's key: what is new or has changed is said, and what is gone."""
        for key, row in rows.items():
            if self._shown.get(key) != row:
                self._tell(row)
        for key in self._shown.keys() - rows.keys():
            self._tell((*self._shown[key][: len(self._widths) - 3], "gone", "", ""))
        self._shown = dict(rows)

    def _tell(self, row: Row) -> None:
        self._say("   ".join(cell.ljust(width) for cell, width in zip(row, self._widths, strict=True)).rstrip())


async def watch_gateway(gateway: GatewayClient, name: str | None, say: Say) -> None:
    """Follow the models of a gateway, or one. GatewayError when it ends or there is no such model."""
    watched = None
    async with contextlib.aclosing(follow(gateway)) as overviews:
        async for overview in overviews:
            models = [model for model in overview.models if name is None or name in (model.name, *model.aliases)]
            if not models and name is not None:
                known = ", ".join(model.name for model in overview.models) or "none"
                raise GatewayError(f"no model {name!r}; available: {known}")
            watched = watched or Watched(_HEADER, say)
            watched.show({model.name: _row(model) for model in models})
    raise GatewayError(f"{gateway.where} is stopping")


def _row(model: "ModelOverview") -> Row:
    ready = f"{model.ready_replicas}/{max(model.replicas, model.ready_replicas)}"
    return model.name, state(model, bar=False), ready, plain_text(model.message)


async def watch_cluster(namespace: str | None, name: str | None, say: Say) -> None:
    """Follow the ModelDeployments of a cluster, or one, until cancelled. GatewayError."""
    from ams_kube.client import Client, NoCluster
    from ams_kube.errors import KubeError
    from ams_kube.reflector import Reflector
    from ams_kube.views import RESOURCES

    resources: dict[str, ResourceView] = {}
    changed = asyncio.Event()

    def take(resource: "ResourceView") -> None:
        resources[f"{resource.metadata.namespace}/{resource.metadata.name}"] = resource
        changed.set()

    def forget(key: str) -> None:
        resources.pop(key, None)
        changed.set()

    try:
        async with await Client.connect("ams") as client:
            await client.list(RESOURCES, namespace)  # what can't be read is told, rather than tried for ever
            fields = f"metadata.name={name}" if name is not None else ""
            reflector = Reflector(client, RESOURCES, take, forget, namespace=namespace, fields=fields)
            following = asyncio.create_task(reflector.run())
            try:
                await reflector.synced.wait()
                watched = Watched(_CLUSTER_HEADER, say)
                while True:
                    changed.clear()
                    watched.show(resource_rows(resources.values()))
                    await changed.wait()
            finally:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)
    except (NoCluster, KubeError) as error:
        raise GatewayError(str(error)) from None


def resource_rows(resources: "Iterable[ResourceView]") -> dict[str, Row]:
    """By namespace and name."""
    rows: dict[str, Row] = {}
    for resource in sorted(resources, key=lambda each: (each.metadata.namespace, each.metadata.name)):
        status, metadata = resource.status, resource.metadata
        said = status.summary or status.phase or "not reconciled by an operator yet"
        ready = f"{status.ready_replicas}/{status.replicas}"
        rows[f"{metadata.namespace}/{metadata.name}"] = (
            metadata.namespace,
            metadata.name,
            said,
            ready,
            plain_text(status.message),
        )
    return rows
