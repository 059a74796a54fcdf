"""Prometheus metrics of one model pod. Labels are bounded: outcomes, phases and kinds only."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from ams_common.histogram import Histogram as PlainHistogram
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from ams_pod.engines.port import RESTART_REASONS, EngineCounters, MemoryUsage, Occupancy
from ams_pod.serve.counts import REQUEST_SECONDS, RequestCounts
from ams_pod.serve.request_meter import Undelivered
from ams_pod.serve.vllm_names import vllm_metrics
from ams_pod.volume import VolumeSpace


@dataclass(frozen=True, slots=True)
class Figures:
    """What is read of a ready pod at each scrape. `waiting` are all requests that were let in and don't run."""

    load: Occupancy
    counters: EngineCounters
    waiting: int
    concurrent_requests: int
    queued_requests: int
    stalled_seconds: float
    memory: MemoryUsage
    engine_restarts: Mapping[str, int] | None = None  # of an engine in a process of its own, by reason


class PodMetrics:
    """All series of a pod; `figures` are read at each scrape, so that steps cost nothing. None: it isn't ready."""

    def __init__(
        self,
        figures: Callable[[], Figures | None],
        undelivered: Undelivered | None = None,
        *,
        name: str = "",
        volume: Callable[[], VolumeSpace | None] = lambda: None,
    ) -> None:
        """`name` is what vLLM's series call the model."""
        self.registry = CollectorRegistry()
        registry = self.registry
        self.counts = RequestCounts()
        self.requests = Counter("ams_pod_requests", "Requests by outcome.", ["outcome"], registry=registry)
        self.wait = Counter(
            "ams_pod_wait_seconds", "Time that requests waited for their first token, by cause.", ["cause"],
            registry=registry,
        )  # fmt: skip
        self.load_phase = Gauge(
            "ams_pod_load_phase_seconds", "Time that each phase of start-up took.", ["phase"], registry=registry
        )
        self.media_decode = Histogram(
            "ams_pod_media_decode_seconds", "Time to decode one item.", ["kind"], buckets=REQUEST_SECONDS,
            registry=registry,
        )  # fmt: skip
        self.media_bytes = Counter(
            "ams_pod_media_bytes", "Bytes of decoded items, as they were sent.", ["kind"], registry=registry
        )
        self._name, self._figures = name, figures
        ProcessCollector(registry=registry)
        registry.register(_Collector(lambda: _of_requests(self.counts)))
        registry.register(_Collector(lambda: _of_volume(volume())))
        registry.register(_Collector(self._of_engine))
        if undelivered is not None:
            registry.register(_Collector(lambda: _of_undelivered(undelivered)))

    def observe_media(self, kind: str, seconds: float, size: int) -> None:
        """One item was decoded; may be called from any thread."""
        self.media_decode.labels(kind).observe(seconds)
        self.media_bytes.labels(kind).inc(size)

    def render(self) -> bytes:
        return generate_latest(self.registry)

    def _of_engine(self) -> Iterator[Metric]:
        figures = self._figures()
        yield from _of_figures(figures)
        yield from vllm_metrics(self._name, self.counts, figures)


class _Collector:
    def __init__(self, read: Callable[[], Iterator[Metric]]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        return self._read()


def histogram_family(name: str, text: str, plain: PlainHistogram) -> HistogramMetricFamily:
    return HistogramMetricFamily(name, text, buckets=plain.buckets(), sum_value=plain.sum)


def _of_requests(counts: RequestCounts) -> Iterator[Metric]:
    for name, text, histogram in (
        ("ams_pod_request_seconds", "Time of whole requests.", counts.duration),
        ("ams_pod_queue_seconds", "Time from acceptance to the first work.", counts.queue_wait),
        ("ams_pod_time_to_first_token_seconds", "Time from acceptance to the first token.", counts.first_token),
        ("ams_pod_prefill_seconds", "Time from the first work on a prompt to the first token.", counts.prefill),
        ("ams_pod_decode_seconds", "Time from the first token of an answer to its last.", counts.decode),
        ("ams_pod_inter_token_seconds", "Time between tokens of one request.", counts.inter_token),
    ):
        yield histogram_family(name, text, histogram)
    yield CounterMetricFamily("ams_pod_generated_tokens", "Tokens of answers.", value=counts.generated)
    startup = HistogramMetricFamily(
        "ams_pod_startup_seconds",
        "Time of this start: until the weights were in place, from then until ready, and until the first answer.",
        labels=("phase",),
    )
    for step, histogram in counts.startup.items():
        startup.add_metric((step,), histogram.buckets(), histogram.sum)
    yield startup


def _of_volume(space: VolumeSpace | None) -> Iterator[Metric]:
    if space is not None:
        yield GaugeMetricFamily("ams_pod_volume_size_bytes", "Size of the volume with the weights.", value=space.size)
        yield GaugeMetricFamily("ams_pod_volume_free_bytes", "What may still be written to it.", value=space.free)


def _of_undelivered(undelivered: Undelivered) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "ams_pod_undelivered_usages",
        "Requests whose usage didn't reach a gateway and waits to be collected.",
        value=len(undelivered),
    )
    yield CounterMetricFamily(
        "ams_pod_undelivered_usages_dropped",
        "Requests whose usage was forgotten, as too many waited to be collected.",
        value=undelivered.dropped,
    )


def _of_figures(figures: Figures | None) -> Iterator[Metric]:
    if figures is None:
        return
    load, counters, memory = figures.load, figures.counters, figures.memory
    for name, text, value in (
        ("ams_pod_running_requests", "Requests in the batch.", load.running),
        ("ams_pod_concurrent_requests_limit", "Requests that the batch has room for.", figures.concurrent_requests),
        ("ams_pod_queued_requests", "Requests that wait for a place.", figures.waiting),
        ("ams_pod_queued_requests_limit", "Requests that may wait; further ones are refused.", figures.queued_requests),
        ("ams_pod_cache_tokens", "Tokens in the cache.", load.cache_tokens),
        ("ams_pod_cache_capacity_tokens", "Tokens that the cache can hold.", load.cache_capacity_tokens),
        ("ams_pod_prefix_cache_tokens", "Tokens of ended requests that are kept for later ones.", load.prefix_tokens),
        ("ams_pod_resident_bytes", "Physical memory of the process.", memory.process_bytes),
        (
            "ams_pod_stalled_seconds",
            "For how long the engine has computed nothing under requests, once that is too long; 0 while it computes.",
            figures.stalled_seconds,
        ),
    ):
        yield GaugeMetricFamily(name, text, value=value)
    yield _of_memory(memory)
    for name, text, count in (
        ("ams_pod_steps", "Steps of the engine.", counters.steps),
        ("ams_pod_prefill_tokens", "Prompt tokens read.", counters.prefill_tokens),
        ("ams_pod_decode_tokens", "Tokens computed for running requests.", counters.decode_tokens),
        ("ams_pod_busy_seconds", "Time that the engine spent in steps.", counters.busy_seconds),
        (
            "ams_pod_compute_seconds",
            "Time that the engine spent on requests, in steps, in towers and in a copy on the CPU.",
            counters.compute_seconds,
        ),
        ("ams_pod_set_aside_rows", "Requests that made way for other keys, and were read again.", counters.set_aside),
        (
            "ams_pod_preempted_rows",
            "Requests that left the batch as the cache was full, and were read again.",
            counters.preempted,
        ),
        ("ams_pod_prefix_cache_queries", "Prompt tokens that were looked up in the cache.", counters.prefix_queries),
        (
            "ams_pod_prefix_cache_hits",
            "Prompt tokens that the cache had, so that they were not read again.",
            counters.prefix_hits,
        ),
        ("ams_pod_drafted_tokens", "Tokens of answers that were guessed and verified.", counters.drafted_tokens),
        (
            "ams_pod_accepted_tokens",
            "Tokens of answers that were guessed right, so that they took no step of their own.",
            counters.accepted_tokens,
        ),
        ("ams_pod_tower_calls", "Calls of the towers that read media.", counters.tower_calls),
        ("ams_pod_tower_seconds", "Time that the engine spent in towers.", counters.tower_seconds),
    ):
        yield CounterMetricFamily(name, text, value=count)
    setbacks = CounterMetricFamily(
        "ams_pod_out_of_memory",
        "Requests that memory ran out for, by stage and by what was done.",
        labels=["stage", "rung"],
    )
    for key, times in list(counters.out_of_memory.items()):
        setbacks.add_metric(list(key), times)
    yield setbacks
    if figures.engine_restarts is not None:
        yield _of_restarts(figures.engine_restarts)


def _of_restarts(counts: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(
        "ams_pod_engine_restarts",
        "Times that an engine in a process of its own was started again: it had ended, answered nothing, or gave "
        "requests no token.",
        labels=["reason"],
    )
    for reason in sorted({*RESTART_REASONS, *counts}):
        family.add_metric([reason], counts.get(reason, 0))
    return family


def _of_memory(memory: MemoryUsage) -> Metric:
    family = GaugeMetricFamily(
        "ams_pod_memory_bytes",
        "Memory by device: of the machine or container `ram`, and of all GPUs together `gpu`.",
        labels=("device", "kind"),
    )
    family.add_metric(("ram", "total"), memory.ram_total_bytes)
    family.add_metric(("ram", "available"), memory.ram_available_bytes)
    family.add_metric(("ram", "process"), memory.process_bytes)
    if (gpu := memory.gpu) is not None:
        family.add_metric(("gpu", "total"), gpu.total_bytes)
        family.add_metric(("gpu", "available"), gpu.free_bytes)
        family.add_metric(("gpu", "allocated"), gpu.allocated_bytes)
        family.add_metric(("gpu", "reserved"), gpu.reserved_bytes)
    return family
