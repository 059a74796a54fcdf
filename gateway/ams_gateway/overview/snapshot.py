"""All models at one moment, made once for everybody who looks, and how many may watch."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ams_common.errors import ApiError
from ams_common.wire import ModelOverview

from ams_gateway.metrics import GatewayMetrics
from ams_gateway.overview.errors import RecentErrors
from ams_gateway.overview.loads import LoadWatch
from ams_gateway.overview.reading import read_model
from ams_gateway.registry.port import Model, Registry

_SAME_MOMENT_SECONDS = 0.3
_MOST_WATCHERS = 100
_RETRY_AFTER_SECONDS = 30.0


class Overviews:
    def __init__(self, registry: Registry, metrics: GatewayMetrics, loads: LoadWatch, errors: RecentErrors) -> None:
        self._registry = registry
        self._metrics = metrics
        self._errors = errors
        self._watchers = 0
        self._made: list[tuple[Model, ModelOverview]] = []
        self._made_at = float("-inf")
        self.loads = loads

    def models(self) -> Sequence[tuple[Model, ModelOverview]]:
        """All models, sorted by name, as an admin may see them."""
        if (now := time.monotonic()) - self._made_at > _SAME_MOMENT_SECONDS:
            self._made, self._made_at = [(model, self._read(model)) for model in self._registry.models()], now
        return self._made

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Somebody watches during the block. ApiError `queue_full` if too many do."""
        if self._watchers >= _MOST_WATCHERS:
            raise ApiError(
                "queue_full", f"{_MOST_WATCHERS} clients already watch the models of this gateway.",
                retry_after=_RETRY_AFTER_SECONDS, limit=_MOST_WATCHERS,
            )  # fmt: skip
        self._watchers += 1
        try:
            yield
        finally:
            self._watchers -= 1

    def _read(self, model: Model) -> ModelOverview:
        numbers = self._metrics.of(model.name)
        return read_model(
            model,
            self._registry.progress(model),
            self.loads.card(model),
            [self.loads.figures(backend) for backend in self._registry.backends(model)],
            self._errors.of(model.name, time.time()),
            in_flight=numbers.in_flight,
            held=numbers.held,
            controllable=self._registry.controls is not None,
        )
