"""The pod's figures under vLLM's metric names, for boards, autoscalers and pickers that were made for vLLM.

Names and labels as in vLLM's `vllm/v1/metrics/loggers.py` and its Grafana boards. Derived at each scrape from what is
counted anyway. What vLLM has and we don't is left out rather than invented: `cache_config_info` (rows have extents, no
blocks), `lora_requests_info`, `iteration_tokens_total`.
"""

from collections.abc import Iterator
from typing import Protocol

from ams_common.histogram import Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from ams_pod.engines.port import EngineCounters, Occupancy
from ams_pod.serve.counts import RequestCounts

_LABELS = ("model_name",)


class Figures(Protocol):
    """What is read of a ready pod."""

    @property
    def load(self) -> Occupancy: ...
    @property
    def counters(self) -> EngineCounters: ...
    @property
    def waiting(self) -> int: ...


def vllm_metrics(name: str, counts: RequestCounts, figures: Figures | None) -> Iterator[Metric]:
    """All series of model `name`; those of the engine only once there is one."""
    if figures is not None:
        yield from _of_engine(name, figures)
    for kind, text, plain in (
        ("time_to_first_token_seconds", "Time to first token in seconds.", counts.first_token),
        ("inter_token_latency_seconds", "Time between tokens of one request in seconds.", counts.inter_token),
        ("time_per_output_token_seconds", "As inter_token_latency_seconds, its older name.", counts.inter_token),
        ("e2e_request_latency_seconds", "Time of whole requests in seconds.", counts.duration),
        ("request_queue_time_seconds", "Time that requests waited in seconds.", counts.queue_wait),
        ("request_prefill_time_seconds", "Time to read prompts in seconds.", counts.prefill),
        ("request_decode_time_seconds", "Time from the first token to the last in seconds.", counts.decode),
        ("request_prompt_tokens", "Tokens of prompts.", counts.prompt_tokens),
        ("request_generation_tokens", "Tokens of answers.", counts.generation_tokens),
        ("request_max_num_generation_tokens", "Tokens of the longest answer to a request.", counts.generation_tokens),
    ):
        yield _histogram(kind, text, name, plain)
    success = CounterMetricFamily(
        "vllm:request_success", "Generations that ended, by why.", labels=(*_LABELS, "finished_reason")
    )
    for ending, count in counts.endings.items():
        success.add_metric((name, ending), count)
    yield success
    yield _counter("generation_tokens", "Tokens generated.", name, counts.generated)


def _of_engine(name: str, figures: Figures) -> Iterator[Metric]:
    load, counters = figures.load, figures.counters
    used = load.cache_tokens / load.cache_capacity_tokens if load.cache_capacity_tokens else 0.0
    for kind, text, value in (
        ("num_requests_running", "Requests in the batch.", load.running),
        ("num_requests_waiting", "Requests that wait for a place.", figures.waiting),
        ("kv_cache_usage_perc", "Part of the cache that is used; 1 is all of it.", used),
        ("gpu_cache_usage_perc", "As kv_cache_usage_perc, its older name.", used),
    ):
        family = GaugeMetricFamily(f"vllm:{kind}", text, labels=_LABELS)
        family.add_metric((name,), value)
        yield family
    yield _counter("prompt_tokens", "Prompt tokens read.", name, counters.prefill_tokens)
    yield _counter(
        "num_preemptions", "Requests that made way for others and were read again.", name,
        counters.set_aside + counters.preempted,
    )  # fmt: skip
    yield _counter("spec_decode_num_draft_tokens", "Tokens guessed and verified.", name, counters.drafted_tokens)
    yield _counter("spec_decode_num_accepted_tokens", "Tokens guessed right.", name, counters.accepted_tokens)
    for kind in ("", "gpu_"):  # the second is the older name
        queries, hits = f"{kind}prefix_cache_queries", f"{kind}prefix_cache_hits"
        yield _counter(queries, "Prompt tokens looked up in the cache.", name, counters.prefix_queries)
        yield _counter(hits, "Prompt tokens that the cache had.", name, counters.prefix_hits)


def _counter(kind: str, text: str, name: str, value: float) -> Metric:
    family = CounterMetricFamily(f"vllm:{kind}", text, labels=_LABELS)
    family.add_metric((name,), value)
    return family


def _histogram(kind: str, text: str, name: str, plain: Histogram) -> Metric:
    family = HistogramMetricFamily(f"vllm:{kind}", text, labels=_LABELS)
    family.add_metric((name,), plain.buckets(), plain.sum)
    return family
