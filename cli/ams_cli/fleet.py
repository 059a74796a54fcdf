"""All models of this machine, as the gateway's registry sees them."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

from ams_common.lifecycle import Phase
from ams_common.memory_offers import choices
from ams_common.names import resource_name
from ams_common.progress import Progress
from ams_common.quantity import format_bytes
from ams_common.resource.spec import ModelDeployment
from ams_gateway.registry.port import Backend, Model

from ams_cli import machine, preview, weights
from ams_cli.controls import FleetControls
from ams_cli.eviction import RunningModel, plan_eviction, unclaimed_bytes
from ams_cli.gateway_model import gateway_model
from ams_cli.jobs import ProcessSetup
from ams_cli.supervisor import Supervisor

logger = logging.getLogger("ams_cli")

_PATIENCE_SECONDS = 30.0  # for models that are in use; then the new one starts with what there is
_LOOK_SECONDS = 0.2


class Fleet:
    """A `Supervisor` for each model, from `start` to `close`; implements `ams_gateway.registry.port.Registry`.

    `on_change` hears of each step of each model. Requests that come before `start` wait for it.
    """

    where: Final = "local"

    def __init__(
        self, resources: Sequence[ModelDeployment], setup: ProcessSetup, on_change: Callable[[Supervisor], None]
    ) -> None:
        self._setup = setup
        self._on_change = on_change
        self._created = int(time.time())
        self._starting_one = asyncio.Lock()
        self._promised: dict[str, int] = {}  # bytes that a model was started with in mind
        self.supervisors = {
            resource.metadata.name: Supervisor(resource, setup, self._changed, self._make_room)
            for resource in resources
        }
        self._names = {
            resource_name(name): resource.metadata.name
            for resource in resources
            for name in (resource.metadata.name, *resource.spec.model.aliases)
        }
        self._models = {name: self._gateway_model(supervisor) for name, supervisor in sorted(self.supervisors.items())}
        self._tasks: list[asyncio.Task[None]] = []
        self.controls = FleetControls(self.supervisors.__getitem__)

    def start(self) -> None:
        self._tasks = [asyncio.create_task(supervisor.run()) for supervisor in self.supervisors.values()]

    async def close(self) -> None:
        """End every process and return when all are gone."""
        self.drain()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def drain(self) -> None:
        """Start nothing more, and refuse requests that wait for a model."""
        for supervisor in self.supervisors.values():
            supervisor.drain()

    def kill(self) -> None:
        """End every model's process without grace."""
        for supervisor in self.supervisors.values():
            supervisor.kill()

    def models(self) -> Sequence[Model]:
        return list(self._models.values())

    def find(self, name: str) -> Model | None:
        found = self._names.get(resource_name(name))
        return self._models[found] if found is not None else None

    def backends(self, model: Model) -> Sequence[Backend]:
        backend = self.supervisors[model.name].backend
        return () if backend is None else (backend,)

    def progress(self, model: Model) -> Progress:
        return self.supervisors[model.name].progress

    def wait_ready(self, model: Model) -> AsyncIterator[Progress]:
        return self.supervisors[model.name].wait_ready()

    def unreachable(self, model: Model, backend: Backend) -> None:
        supervisor = self.supervisors[model.name]
        if supervisor.backend is backend:
            supervisor.check()

    def _changed(self, supervisor: Supervisor) -> None:
        if supervisor.state.weights and not self._models[supervisor.name].facts.source_exists:
            self._models[supervisor.name] = self._gateway_model(supervisor)
        self._on_change(supervisor)

    def _gateway_model(self, supervisor: Supervisor) -> Model:
        models_dir = self._setup.folders.models_dir
        always_on = supervisor.policy.always_on and supervisor.policy.suspended is None
        return gateway_model(
            supervisor.resource, models_dir, self._created, engine=supervisor.engine, always_on=always_on
        )

    async def _make_room(self, supervisor: Supervisor) -> None:
        """Stop idle models where `supervisor`'s would not fit beside them. One model at a time asks."""
        async with self._starting_one:
            needs = self._needs(supervisor)
            patience_ends = time.monotonic() + _PATIENCE_SECONDS
            while True:
                holders, free = await self._look(supervisor)
                if free is None:
                    return
                eviction = plan_eviction(needs, free, holders)
                if not eviction.wait or time.monotonic() > patience_ends:
                    break
                supervisor.note("waiting for memory of models that are in use")
                await asyncio.sleep(_LOOK_SECONDS)
            needed, has = format_bytes(eviction.needed), format_bytes(max(free, 0))
            if eviction.short:
                logger.warning("%s starts with %s of memory, though it may need %s", supervisor.name, has, needed)
            for name in eviction.victims:
                logger.info("stopping %s: %s needs %s of memory", name, supervisor.name, needed)
                await self.supervisors[name].leave()
            self._promised[supervisor.name] = eviction.needed

    async def _look(self, starting: Supervisor) -> tuple[list[RunningModel], int | None]:
        """The models that run beside `starting`, and the bytes that are free for it."""
        running = {
            each.process.pid: each for each in self.supervisors.values() if each is not starting and each.process
        }
        memory = await asyncio.to_thread(machine.device_memory, list(running))
        holders = []
        for pid, supervisor in running.items():
            demand, promised = supervisor.demand, self._promised.get(supervisor.name, 0)
            is_ready = supervisor.state.phase is Phase.READY
            held = memory.held.get(pid, promised if is_ready else 0)
            idle = is_ready and not (demand.in_flight or demand.waiting)
            holders.append(
                RunningModel(supervisor.name, held, promised, demand.last_used, idle, not supervisor.policy.always_on)
            )
        return holders, unclaimed_bytes(memory.available, self._setup.memory_limit, holders)

    def _needs(self, supervisor: Supervisor) -> list[int]:
        """Bytes of memory that suffice for the model: unquantized first, then of the quantizations it may get."""
        folder = weights.folder(supervisor.resource, self._setup.folders.models_dir, supervisor.engine.name)
        found = preview.of_folder(supervisor.resource, folder) if folder is not None else None
        if found is None or found.size is None or not found.size.parameters:
            return [weights.bytes_on_disk(supervisor.resource, folder)]
        return [need.on("cpu").total_bytes for need in choices(supervisor.resource.spec, found.size, gpus=False)]
