"""All models of this machine, as the gateway's registry sees them."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence

from ams_common.names import resource_name
from ams_common.progress import Progress
from ams_common.quantity import format_bytes
from ams_common.resource.spec import ModelDeployment
from ams_gateway.registry import Backend, Model

from ams_cli.card import model_card
from ams_cli.jobs import Means
from ams_cli.machine import available_bytes, resident_bytes
from ams_cli.room import Holder, who_stops
from ams_cli.runner import Runner
from ams_cli.weights import bytes_on_disk, folder

logger = logging.getLogger("ams_cli")


class Fleet:
    """A `Runner` for each model, from `start` to `close`; implements `ams_gateway.registry.Registry`.

    `on_change` hears of each step of each model. Requests that come before `start` wait for it.
    """

    def __init__(self, resources: Sequence[ModelDeployment], means: Means, on_change: Callable[[Runner], None]) -> None:
        self._means = means
        self._on_change = on_change
        self._created = int(time.time())
        self._starting_one = asyncio.Lock()
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
            available = available_bytes()
            if available is None:
                return
            needed = bytes_on_disk(folder(runner.resource, self._means.places.models_dir))
            for name in who_stops(needed, available, [_holder(each) for each in self.runners.values()]):
                logger.info("%s stops, as %s needs %s", name, runner.name, format_bytes(needed))
                await self.runners[name].leave()


def _holder(runner: Runner) -> Holder:
    demand, process = runner.demand, runner.process
    idle = runner.state.stage == "ready" and not (demand.in_flight or demand.waiting)
    resident = resident_bytes(process.pid) if process is not None else None
    return Holder(runner.name, resident or 0, demand.last_used, idle and not runner.policy.always_on)
