"""Prometheus metrics of one model pod. Labels are bounded: outcomes and phases only."""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from ams_pod.engines.port import EngineCounters, Occupancy
from ams_pod.serve.request_meter import Undelivered

_TOKEN_SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2, 5)
_REQUEST_SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600)


class PodMetrics:
    """All series of a pod; `engine` is read at each scrape, so that steps cost nothing."""

    def __init__(
        self,
        engine: Callable[[], tuple[Occupancy, EngineCounters, int] | None],
        undelivered: Undelivered | None = None,
    ) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.requests = Counter("ams_pod_requests", "Requests by outcome.", ["outcome"], registry=registry)
        self.duration = Histogram(
            "ams_pod_request_seconds", "Time of whole requests.", buckets=_REQUEST_SECONDS, registry=registry
        )
        self.queue_wait = Histogram(
            "ams_pod_queue_seconds", "Time from acceptance to the first work.", buckets=_REQUEST_SECONDS,
            registry=registry,
        )  # fmt: skip
        self.first_token = Histogram(
            "ams_pod_time_to_first_token_seconds", "Time from acceptance to the first token.",
            buckets=_REQUEST_SECONDS, registry=registry,
        )  # fmt: skip
        self.inter_token = Histogram(
            "ams_pod_inter_token_seconds", "Time between tokens of one request.", buckets=_TOKEN_SECONDS,
            registry=registry,
        )  # fmt: skip
        self.wait = Counter(
            "ams_pod_wait_seconds", "Time that requests waited for their first token, by cause.", ["cause"],
            registry=registry,
        )  # fmt: skip
        self.load_phase = Gauge(
            "ams_pod_load_phase_seconds", "Time that each phase of start-up took.", ["phase"], registry=registry
        )
        self.media_decode = Histogram(
            "ams_pod_media_decode_seconds", "Time to decode one item.", ["kind"], buckets=_REQUEST_SECONDS,
            registry=registry,
        )  # fmt: skip
        self.media_bytes = Counter(
            "ams_pod_media_bytes", "Bytes of decoded items, as they were sent.", ["kind"], registry=registry
        )
        registry.register(_EngineCollector(engine))
        if undelivered is not None:
            registry.register(_UsageCollector(undelivered))

    def observe_media(self, kind: str, seconds: float, size: int) -> None:
        """One item was decoded; may be called from any thread."""
        self.media_decode.labels(kind).observe(seconds)
        self.media_bytes.labels(kind).inc(size)

    def render(self) -> bytes:
        return generate_latest(self.registry)


class _UsageCollector:
    def __init__(self, undelivered: Undelivered) -> None:
        self._undelivered = undelivered

    def collect(self) -> Iterable[Metric]:
        yield GaugeMetricFamily(
            "ams_pod_undelivered_usages",
            "Requests whose usage didn't reach a gateway and waits to be collected.",
            value=len(self._undelivered),
        )
        yield CounterMetricFamily(
            "ams_pod_undelivered_usages_dropped",
            "Requests whose usage was forgotten, as too many waited to be collected.",
            value=self._undelivered.dropped,
        )


class _EngineCollector:
    """Reads the engine's own figures when somebody asks."""

    def __init__(self, engine: Callable[[], tuple[Occupancy, EngineCounters, int] | None]) -> None:
        self._engine = engine

    def collect(self) -> Iterable[Metric]:
        figures = self._engine()
        if figures is None:
            return
        load, counters, resident = figures
        yield GaugeMetricFamily("ams_pod_running_requests", "Requests in the batch.", value=load.running)
        yield GaugeMetricFamily("ams_pod_queued_requests", "Requests that wait for a place.", value=load.waiting)
        yield GaugeMetricFamily("ams_pod_cache_tokens", "Tokens in the cache.", value=load.cache_tokens)
        yield GaugeMetricFamily(
            "ams_pod_cache_capacity_tokens", "Tokens that the cache can hold.", value=load.cache_capacity_tokens
        )
        yield GaugeMetricFamily("ams_pod_resident_bytes", "Physical memory of the process.", value=resident)
        for name, text, value in (
            ("ams_pod_steps", "Steps of the engine.", counters.steps),
            ("ams_pod_prefill_tokens", "Prompt tokens read.", counters.prefill_tokens),
            ("ams_pod_decode_tokens", "Tokens computed for running requests.", counters.decode_tokens),
            ("ams_pod_busy_seconds", "Time that the engine spent in steps.", counters.busy_seconds),
            (
                "ams_pod_compute_seconds",
                "Time that the engine spent on requests, in steps, in towers and in a copy on the CPU.",
                counters.compute_seconds,
            ),
            (
                "ams_pod_set_aside_rows",
                "Requests that made way for other keys, and were read again.",
                counters.set_aside,
            ),
            ("ams_pod_tower_calls", "Calls of the towers that read media.", counters.tower_calls),
            ("ams_pod_tower_seconds", "Time that the engine spent in towers.", counters.tower_seconds),
        ):
            yield CounterMetricFamily(name, text, value=value)
        setbacks = CounterMetricFamily(
            "ams_pod_out_of_memory",
            "Requests that memory ran out for, by stage and by what was done.",
            labels=["stage", "rung"],
        )
        for key, count in list(counters.out_of_memory.items()):
            setbacks.add_metric(list(key), count)
        yield setbacks
