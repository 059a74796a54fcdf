"""The operator's figures for Prometheus."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from ams_common.resource.spec import ModelDeployment
from ams_common.resource.status import conditions_of
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


@dataclass(frozen=True, slots=True)
class Figures:
    """What is read when the metrics are scraped."""

    resources: Iterable[ModelDeployment]
    desired: Callable[[str], int | None]
    queue_depth: int
    queue_age_seconds: float
    leads: bool
    api_requests: int


class Metrics(Collector):
    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.reconciles = Counter(
            "ams_operator_reconciles", "Times that a resource was looked at.", ["outcome"], registry=self._registry
        )
        self.reconcile_seconds = Histogram(
            "ams_operator_reconcile_duration_seconds",
            "Time that looking at a resource took.",
            buckets=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
            registry=self._registry,
        )
        self.writes = Counter(
            "ams_operator_writes", "Objects written to the API server.", ["kind"], registry=self._registry
        )
        self.decisions = Counter(
            "ams_operator_scaling_decisions", "Changes of replicas by load.", ["direction"], registry=self._registry
        )
        self._downloads = Counter(
            "ams_operator_download_bytes", "Bytes that pods said to have fetched.", ["model"], registry=self._registry
        )
        self.figures: Callable[[], Figures] | None = None
        self._registry.register(self)

    def downloaded(self, key: str, count: int) -> None:
        if count > 0:
            self._downloads.labels(key).inc(count)

    def forget(self, key: str) -> None:
        """The resource is gone, and so are its series."""
        if (key,) in self._downloads._metrics:
            self._downloads.remove(key)

    def render(self) -> bytes:
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        if self.figures is None:
            return
        figures = self.figures()
        conditions: dict[tuple[str, str], int] = {}
        desired = GaugeMetricFamily("ams_operator_desired_replicas", "Pods that a model is to have.", labels=("model",))
        ready = GaugeMetricFamily("ams_operator_ready_replicas", "Pods of a model that answer.", labels=("model",))
        for resource in figures.resources:
            key = resource.metadata.key
            for condition in conditions_of(resource.status).values():
                pair = (condition.type, str(condition.status))
                conditions[pair] = conditions.get(pair, 0) + 1
            if (replicas := figures.desired(key)) is not None:
                desired.add_metric((key,), replicas)
            if resource.status is not None and resource.status.ready_replicas is not None:
                ready.add_metric((key,), resource.status.ready_replicas)
        by_condition = GaugeMetricFamily(
            "ams_operator_resources", "ModelDeployments by condition.", labels=("condition", "status")
        )
        for pair, count in conditions.items():
            by_condition.add_metric(pair, count)
        yield from (
            by_condition,
            desired,
            ready,
            GaugeMetricFamily("ams_operator_queue_depth", "Resources that wait to be looked at.", figures.queue_depth),
            GaugeMetricFamily(
                "ams_operator_queue_age_seconds", "How long the first of them waits.", figures.queue_age_seconds
            ),
            CounterMetricFamily(
                "ams_operator_api_requests", "Requests to the API server, kopf's aside.", figures.api_requests
            ),
            GaugeMetricFamily("ams_operator_leads", "1 while this operator holds the Lease.", int(figures.leads)),
        )
