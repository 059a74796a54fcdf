"""The operator's figures for Prometheus."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from ams_common.demand import ModelDemand
from ams_common.progress import Download
from ams_common.resource.spec import ModelDeployment
from ams_common.resource.status import conditions_of
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ams_operator.decide.startup import STEPS, StartupStep

_STATUSES = {"True": 1.0, "False": 0.0}  # of a condition; anything else is -1


@dataclass(frozen=True, slots=True)
class Figures:
    """What is read when the metrics are scraped. `downloads` and `restarts` are by the model's key."""

    resources: Iterable[ModelDeployment]
    desired: Callable[[str], int | None]
    queue_depth: int
    queue_age_seconds: float
    leads: bool
    api_requests: int
    downloads: Mapping[str, Download] = field(default_factory=dict)
    restarts: Callable[[str], int] = lambda key: 0
    demand: Callable[[str], ModelDemand] | None = None
    demand_complete: bool = False


class Metrics(Collector):
    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.reconciles = Counter(
            "ams_operator_reconciles", "Times that a resource was looked at.", ["outcome"], registry=registry
        )
        for outcome in ("done", "failed", "not-leading"):
            self.reconciles.labels(outcome)  # there from the start: a first failure would be no increase otherwise
        self.reconcile_seconds = Histogram(
            "ams_operator_reconcile_duration_seconds",
            "Time that looking at a resource took.",
            buckets=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
            registry=registry,
        )
        self.writes = Counter("ams_operator_writes", "Objects written to the API server.", ["kind"], registry=registry)
        self.decisions = Counter(
            "ams_operator_scaling_decisions", "Changes of replicas by load.", ["direction"], registry=registry
        )
        for direction in ("up", "down"):
            self.decisions.labels(direction)
        self.preflights = Counter(
            "ams_operator_preflights", "Times that the hub was asked about a model, by what it said.", ["outcome"],
            registry=registry,
        )  # fmt: skip
        for outcome in ("answered", "refused", "unreachable"):
            self.preflights.labels(outcome)
        self._startup = Histogram(
            "ams_operator_startup_seconds",
            "Time that pods took until they answered, by step; as the kubelet tells, in whole seconds.",
            ["phase"],
            buckets=(1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200),
            registry=registry,
        )
        for step in STEPS:
            self._startup.labels(step)
        self._last_startup: dict[str, Mapping[StartupStep, float]] = {}
        self._downloads = Counter(
            "ams_operator_download_bytes", "Bytes that pods said to have fetched.", ["model"], registry=registry
        )
        self.figures: Callable[[], Figures] | None = None
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        registry.register(self)

    def expect(self, key: str) -> None:
        """A resource is looked after: its series begin at 0, so that what comes first is an increase too."""
        self._downloads.labels(key)

    def downloaded(self, key: str, count: int) -> None:
        if count > 0:
            self._downloads.labels(key).inc(count)

    def started(self, key: str, steps: Mapping[StartupStep, float]) -> None:
        """A pod of a model answers; what each step took."""
        self._last_startup[key] = steps
        for step, seconds in steps.items():
            self._startup.labels(step).observe(seconds)

    def forget(self, key: str) -> None:
        """The resource is gone, and so are its series."""
        self._last_startup.pop(key, None)
        if (key,) in self._downloads._metrics:
            self._downloads.remove(key)

    def render(self) -> bytes:
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        startup = GaugeMetricFamily(
            "ams_operator_last_startup_seconds",
            "Time that the last pod of a model to get ready took, by step.",
            labels=("model", "phase"),
        )
        for key, steps in self._last_startup.items():
            for step, seconds in steps.items():
                startup.add_metric((key, step), seconds)
        yield startup
        if self.figures is not None:
            figures = self.figures()
            yield from _of_models(figures)
            yield from _of_downloads(figures.downloads)
            yield from _of_itself(figures)


def _of_models(figures: Figures) -> Iterator[Metric]:
    totals: dict[tuple[str, str], int] = {}
    desired = _by_model("ams_operator_desired_replicas", "Pods that a model is to have.")
    ready = _by_model("ams_operator_ready_replicas", "Pods of a model that answer.")
    restarts = _by_model(
        "ams_operator_container_restarts", "Times that containers of a model's pods were started again."
    )
    in_flight = _by_model(
        "ams_operator_demand_requests_in_flight", "Requests of a model at pods, as gateways report to scale by."
    )
    held = _by_model(
        "ams_operator_demand_requests_held", "Requests that wait for a model, as gateways report to scale by."
    )
    conditions = GaugeMetricFamily(
        "ams_operator_condition",
        "A condition of a ModelDeployment: 1 for True, 0 for False, -1 for Unknown.",
        labels=("model", "condition", "reason"),
    )
    for resource in figures.resources:
        key = resource.metadata.key
        for condition in conditions_of(resource.status).values():
            pair = (condition.type, str(condition.status))
            totals[pair] = totals.get(pair, 0) + 1
            conditions.add_metric((key, condition.type, condition.reason), _STATUSES.get(str(condition.status), -1.0))
        if (replicas := figures.desired(key)) is not None:
            desired.add_metric((key,), replicas)
        if resource.status is not None:
            ready.add_metric((key,), resource.status.ready_replicas or 0)
        restarts.add_metric((key,), figures.restarts(key))
        if figures.demand is not None:
            demand = figures.demand(key)
            in_flight.add_metric((key,), demand.in_flight)
            held.add_metric((key,), demand.held)
    by_condition = GaugeMetricFamily(
        "ams_operator_resources", "ModelDeployments by condition.", labels=("condition", "status")
    )
    for pair, count in totals.items():
        by_condition.add_metric(pair, count)
    yield from (by_condition, conditions, desired, ready, restarts)
    if figures.demand is not None:
        yield from (in_flight, held)
        yield GaugeMetricFamily(
            "ams_operator_demand_complete",
            "1 while every gateway reports its demand; nothing is scaled down otherwise.",
            value=int(figures.demand_complete),
        )


def _of_downloads(downloads: Mapping[str, Download]) -> Iterator[Metric]:
    """Of models that are being downloaded."""
    done = _by_model("ams_operator_download_done_bytes", "Bytes that are there of a download that goes on.")
    size = _by_model("ams_operator_download_size_bytes", "Bytes of the whole.")
    left = _by_model("ams_operator_download_eta_seconds", "Time until the download ends, at its pace of now.")
    for key, download in downloads.items():
        done.add_metric((key,), download.bytesDone)
        if download.bytesTotal is not None:
            size.add_metric((key,), download.bytesTotal)
        if download.etaSeconds is not None:
            left.add_metric((key,), download.etaSeconds)
    yield from (done, size, left)


def _of_itself(figures: Figures) -> Iterator[Metric]:
    yield GaugeMetricFamily("ams_operator_queue_depth", "Resources that wait to be looked at.", figures.queue_depth)
    yield GaugeMetricFamily(
        "ams_operator_queue_age_seconds", "How long the first of them waits.", figures.queue_age_seconds
    )
    yield CounterMetricFamily(
        "ams_operator_api_requests", "Requests to the API server, kopf's aside.", figures.api_requests
    )
    yield GaugeMetricFamily("ams_operator_leads", "1 while this operator holds the Lease.", int(figures.leads))


def _by_model(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=("model",))
