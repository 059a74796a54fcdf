"""All models of this machine, as the gateway's registry sees them."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence

from ams_common.lifecycle import Phase
from ams_common.names import resource_name
from ams_common.progress import Progress
from ams_common.quantity import format_bytes
from ams_common.resource.spec import ModelDeployment
from ams_gateway.registry.port import Backend, Model

from ams_cli import machine, preview, weights
from ams_cli.card import model_card
from ams_cli.jobs import Means
from ams_cli.room import Holder, free_bytes, make_room
from ams_cli.runner import Runner

logger = logging.getLogger("ams_cli")

_PATIENCE_SECONDS = 30.0  # for models that are in use; then the new one starts with what there is
_LOOK_SECONDS = 0.2


class Fleet:
    """A `Runner` for each model, from `start` to `close`; implements `ams_gateway.registry.port.Registry`.

    `on_change` hears of each step of each model. Requests that come before `start` wait for it.
    """

    def __init__(self, resources: Sequence[ModelDeployment], means: Means, on_change: Callable[[Runner], None]) -> None:
        self._means = means
        self._on_change = on_change
        self._created = int(time.time())
        self._starting_one = asyncio.Lock()
        self._promised: dict[str, int] = {}  # bytes that a model was started with in mind
        self.runners = {
            resource.metadata.name: Runner(resource, means, self._changed, self._make_room) for resource in resources
        }
        self._names = {
            resource_name(name): resource.metadata.name
            for resource in resources
            for name in (resource.metadata.name, *resource.spec.model.aliases)
        }
        self._models = {name: self._card(runner) for name, runner in sorted(self.runners.items())}
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [asyncio.create_task(runner.run()) for runner in self.runners.values()]

    async def close(self) -> None:
        """End every process and return when all are gone."""
        self.drain()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def drain(self) -> None:
        """Start nothing more, and refuse requests that wait for a model."""
        for runner in self.runners.values():
            runner.drain()

    def kill(self) -> None:
        """End every model's process without grace."""
        for runner in self.runners.values():
            runner.kill()

    def models(self) -> Sequence[Model]:
        return list(self._models.values())

    def find(self, name: str) -> Model | None:
        found = self._names.get(resource_name(name))
        return self._models[found] if found is not None else None

    def backends(self, model: Model) -> Sequence[Backend]:
        backend = self.runners[model.name].backend
        return () if backend is None else (backend,)

    def progress(self, model: Model) -> Progress:
        return self.runners[model.name].progress

    def wait_ready(self, model: Model) -> AsyncIterator[Progress]:
        return self.runners[model.name].wait_ready()

    def unreachable(self, model: Model, backend: Backend) -> None:
        runner = self.runners[model.name]
        if runner.backend is backend:
            runner.check()

    def _changed(self, runner: Runner) -> None:
        if runner.state.weights and "path" not in self._models[runner.name].labels:
            self._models[runner.name] = self._card(runner)
        self._on_change(runner)

    def _card(self, runner: Runner) -> Model:
        models_dir = self._means.places.models_dir
        always_on = runner.policy.always_on and runner.policy.suspended is None
        return model_card(runner.resource, models_dir, self._created, always_on=always_on)

    async def _make_room(self, runner: Runner) -> None:
        """Stop idle models where `runner`'s would not fit beside them. One model at a time asks."""
        async with self._starting_one:
            needs = self._needs(runner)
            patience_ends = time.monotonic() + _PATIENCE_SECONDS
            while True:
                holders, free = await self._look(runner)
                if free is None:
                    return
                room = make_room(needs, free, holders)
                if not room.wait or time.monotonic() > patience_ends:
                    break
                runner.note("waits for memory of models that are in use")
                await asyncio.sleep(_LOOK_SECONDS)
            needed, has = format_bytes(room.needed), format_bytes(max(free, 0))
            if room.short:
                logger.warning("%s starts with %s of memory for the %s it may need", runner.name, has, needed)
            for name in room.stops:
                logger.info("%s stops, as %s needs %s", name, runner.name, needed)
                await self.runners[name].leave()
            self._promised[runner.name] = room.needed

    async def _look(self, starting: Runner) -> tuple[list[Holder], int | None]:
        """The models that run beside `starting`, and the bytes that are free for it."""
        running = {each.process.pid: each for each in self.runners.values() if each is not starting and each.process}
        memory = await asyncio.to_thread(machine.device_memory, list(running))
        holders = []
        for pid, runner in running.items():
            demand, promised = runner.demand, self._promised.get(runner.name, 0)
            is_ready = runner.state.phase is Phase.READY
            held = memory.held.get(pid, promised if is_ready else 0)
            idle = is_ready and not (demand.in_flight or demand.waiting)
            holders.append(Holder(runner.name, held, promised, demand.last_used, idle, not runner.policy.always_on))
        return holders, free_bytes(memory.available, self._means.memory_limit, holders)

    def _needs(self, runner: Runner) -> list[int]:
        """Bytes of memory that suffice for the model: unquantized first, then of the quantizations it may get."""
        folder = weights.folder(runner.resource, self._means.places.models_dir)
        found = preview.of_folder(runner.resource, folder) if folder is not None else None
        if found is None or not found.parameters:
            return [weights.bytes_on_disk(folder)]
        asked = runner.resource.spec.quantization
        needs = weights.needs_of(runner.resource, found.parameters, found.config)
        return [need.total_bytes for need in needs if asked in ("auto", need.quantization)]
