"""Models and pods of a cluster: keeps what the watches delivered last, so that an API server may be away."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final

from ams_common import labels
from ams_common.errors import ApiError
from ams_common.lifecycle import Phase
from ams_common.names import child_name, resource_name
from ams_common.progress import Progress
from ams_kube.objects import EndpointSlice
from ams_kube.views import ResourceView

from ams_gateway.broadcast import Broadcast
from ams_gateway.proxy.pod_client import PodClient, PodUnavailable
from ams_gateway.proxy.upstream import Pool
from ams_gateway.registry.cluster.reading import RoutedResource, name_resources, read_resource, read_slice
from ams_gateway.registry.port import Backend, Model

logger = logging.getLogger("ams_gateway")

_READY = Progress(Phase.READY)
_CHECK_SECONDS = 0.25


class ClusterRegistry:
    """Implements `ams_gateway.registry.port.Registry`; the watches call `take_*` and `forget_*`."""

    where: Final = "cluster"
    controls: Final = None

    def __init__(self, *, confine_names: bool = False) -> None:
        self._confine_names = confine_names
        self._resources: dict[str, RoutedResource] = {}
        self._slices: dict[str, tuple[str, Mapping[str, tuple[str, str]]]] = {}  # key → service's key, pods
        self._services: dict[str, dict[str, Backend]] = {}  # service's key → uid → backend
        self._renamed = False
        self._names: Mapping[str, str] = {}
        self._models: dict[str, Model] = {}
        self._sorted: list[Model] = []
        self._suspects: set[Backend] = set()
        self._checks: set[asyncio.Task[None]] = set()
        self._changes: dict[str, Broadcast] = {}  # by key, for models that somebody waits for

    def take_resource(self, view: ResourceView) -> None:
        key, resource = view.metadata.key, read_resource(view)
        known = self._resources.get(key)
        self._renamed |= known is None or (known.model, known.created) != (resource.model, resource.created)
        self._resources[key] = resource
        self._notify(key)

    def forget_resource(self, key: str) -> None:
        if self._resources.pop(key, None) is not None:
            self._renamed = True
            self._notify(key)
            self._changes.pop(key, None)

    def take_slice(self, endpoints: EndpointSlice) -> None:
        metadata = endpoints.metadata
        service = f"{metadata.namespace}/{metadata.labels.get(labels.SERVICE_NAME, '')}"
        self._slices[metadata.key] = service, read_slice(endpoints)
        self._gather(service)

    def forget_slice(self, key: str) -> None:
        if (known := self._slices.pop(key, None)) is not None:
            self._gather(known[0])

    async def close(self) -> None:
        for task in self._checks:
            task.cancel()
        await asyncio.gather(*self._checks, return_exceptions=True)

    def models(self) -> Sequence[Model]:
        self._name()
        return self._sorted

    def find(self, name: str) -> Model | None:
        self._name()
        key = self._names.get(resource_name(name))
        return self._models[key] if key is not None else None

    def backends(self, model: Model) -> Sequence[Backend]:
        pods = self._services.get(_service(model.key), {}).values()
        return [pod for pod in pods if pod not in self._suspects] if self._suspects else list(pods)

    def progress(self, model: Model) -> Progress:
        if self.backends(model):
            return _READY
        resource = self._resources.get(model.key)
        return resource.progress if resource is not None else Progress(Phase.STOPPED, message="it was deleted")

    async def wait_ready(self, model: Model) -> AsyncIterator[Progress]:
        key = model.key
        changes = self._changes.setdefault(key, Broadcast())
        while not self.backends(model):
            resource = self._resources.get(key)
            if resource is None:
                raise ApiError("model_not_found", f"{model.name} was deleted.", model=model.name)
            if (refusal := resource.refuse(model.name)) is not None:
                raise refusal
            version = changes.version
            yield resource.progress
            await changes.changed_since(version)

    def unreachable(self, model: Model, backend: Backend) -> None:
        """Leave the pod out until it answers again or its slice drops it: the cluster may need a while to notice."""
        if backend in self._suspects or not self._lists(model, backend):
            return
        self._suspects.add(backend)
        self._notify(model.key)
        task = asyncio.create_task(self._check_until_ready(model, backend))
        self._checks.add(task)
        task.add_done_callback(self._checks.discard)

    async def _check_until_ready(self, model: Model, backend: Backend) -> None:
        pool = Pool(backend.address)
        client = PodClient(pool)
        try:
            while self._lists(model, backend) and not await _is_ready(client):  # noqa: ASYNC110
                await asyncio.sleep(_CHECK_SECONDS)
        finally:
            pool.close_idle(0)
            self._suspects.discard(backend)
            backend.failures, backend.ejected_until = 0, 0.0
            self._notify(model.key)

    def _lists(self, model: Model, backend: Backend) -> bool:
        return backend in self._services.get(_service(model.key), {}).values()

    def _name(self) -> None:
        """Find out which names lead where, once for all changes since the last time."""
        if self._renamed:
            self._names, self._models = name_resources(self._resources.values(), confined=self._confine_names)
            self._sorted = sorted(self._models.values(), key=lambda model: model.name)
            self._renamed = False

    def _gather(self, service: str) -> None:
        """Put the slices of one service together; pods that stay keep their Backend."""
        known = self._services.get(service, {})
        pods: dict[str, Backend] = {}
        for owner, addresses in self._slices.values():
            if owner != service:
                continue
            for uid, (name, address) in addresses.items():
                kept = known.get(uid)
                pods[uid] = kept if kept is not None and kept.address == address else Backend(name, address)
        if pods:
            self._services[service] = pods
        else:
            self._services.pop(service, None)
        namespace, _, name = service.partition("/")
        self._notify(f"{namespace}/{name.removeprefix(child_name(''))}")

    def _notify(self, key: str) -> None:
        if (changes := self._changes.get(key)) is not None:
            changes.notify()


def _service(key: str) -> str:
    namespace, _, name = key.partition("/")
    return f"{namespace}/{child_name(name)}"


async def _is_ready(client: PodClient) -> bool:
    try:
        return (await client.progress()).phase == Phase.READY
    except PodUnavailable:
        return False
