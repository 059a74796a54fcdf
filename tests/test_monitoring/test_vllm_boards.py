"""What boards, autoscalers and pickers made for vLLM ask has an answer from our pods, in a real Prometheus."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_server import Prometheus, needs_prometheus, prometheus
from test_monitoring import product

pytestmark = needs_prometheus
NAME = 'model_name="tiny"'
QUANTILES = (
    "e2e_request_latency_seconds",
    "time_to_first_token_seconds",
    "inter_token_latency_seconds",
    "time_per_output_token_seconds",
    "request_queue_time_seconds",
    "request_prefill_time_seconds",
    "request_decode_time_seconds",
)
QUERIES = [
    # latencies, as percentiles and as means
    *(f"histogram_quantile(0.95, sum by (le) (rate(vllm:{name}_bucket{{{NAME}}}[1m])))" for name in QUANTILES),
    *(f"rate(vllm:{name}_sum{{{NAME}}}[1m]) / rate(vllm:{name}_count{{{NAME}}}[1m])" for name in QUANTILES),
    # throughput and sizes
    f"rate(vllm:prompt_tokens_total{{{NAME}}}[1m])",
    f"rate(vllm:generation_tokens_total{{{NAME}}}[1m])",
    f"sum by (le) (increase(vllm:request_prompt_tokens_bucket{{{NAME}}}[1m]))",
    f"sum by (le) (increase(vllm:request_generation_tokens_bucket{{{NAME}}}[1m]))",
    f"rate(vllm:request_max_num_generation_tokens_sum{{{NAME}}}[1m])",
    f"sum by (finished_reason) (increase(vllm:request_success_total{{{NAME}}}[1m]))",
    # the state of the scheduler
    f"vllm:num_requests_running{{{NAME}}}",
    f"vllm:num_requests_waiting{{{NAME}}}",
    f"vllm:kv_cache_usage_perc{{{NAME}}}",
    f"vllm:gpu_cache_usage_perc{{{NAME}}}",
    f"rate(vllm:num_preemptions_total{{{NAME}}}[1m])",
    f"rate(vllm:prefix_cache_hits_total{{{NAME}}}[1m]) / rate(vllm:prefix_cache_queries_total{{{NAME}}}[1m])",
    f"rate(vllm:gpu_prefix_cache_hits_total{{{NAME}}}[1m]) / rate(vllm:gpu_prefix_cache_queries_total{{{NAME}}}[1m])",
    # KEDA's scalers
    f"sum(vllm:num_requests_waiting{{{NAME}}})",
    f"avg(vllm:kv_cache_usage_perc{{{NAME}}}) * 100",
    # a board's variable
    "group by (model_name) (vllm:generation_tokens_total)",
]


@pytest.fixture(scope="module")
def scraped(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Prometheus, product.Server]]:
    """A pod that answers 12 requests, scraped before, while and after."""
    folder = tmp_path_factory.mktemp("vllm")
    with (
        product.pod(folder, llama, "tiny") as pod,
        prometheus(folder / "prometheus", [product.pod_target(pod, "tiny")]) as server,
    ):
        server.until('vllm:num_requests_running{model_name="tiny"}')
        for number in range(12):
            asked = {"prompt": "hello", "temperature": 0, "max_new_tokens": 4 + number, "ignore_eos": True}
            assert pod.post("/generate", asked) == 200
        server.until('vllm:generation_tokens_total{model_name="tiny"} >= 114')
        server.until("rate(vllm:generation_tokens_total[1m]) > 0")
        yield server, pod


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_of_a_vllm_board_has_data(scraped: tuple[Prometheus, product.Server], query: str) -> None:
    server, _ = scraped
    found = server.query(query)
    assert found
    assert all(series["value"][1] != "NaN" for series in found), found


def test_its_figures_are_ours(scraped: tuple[Prometheus, product.Server]) -> None:
    """Counted once: each is a figure of the pod under another name."""
    server, _ = scraped
    pairs = {
        "vllm:generation_tokens_total": "ams_pod_generated_tokens_total",
        "vllm:prompt_tokens_total": "ams_pod_prefill_tokens_total",
        "vllm:e2e_request_latency_seconds_count": "ams_pod_request_seconds_count",
        "vllm:time_to_first_token_seconds_sum": "ams_pod_time_to_first_token_seconds_sum",
        "vllm:inter_token_latency_seconds_count": "ams_pod_inter_token_seconds_count",
        "vllm:request_queue_time_seconds_count": "ams_pod_queue_seconds_count",
    }
    for theirs, ours in pairs.items():
        assert server.value(theirs) == server.value(ours), theirs
    assert server.value("vllm:generation_tokens_total") == sum(range(4, 16))
    assert server.value('vllm:request_success_total{finished_reason="length"}') == 12
    assert server.value("vllm:request_generation_tokens_sum") == sum(range(4, 16))


def test_how_the_pod_started_is_told_by_phase(scraped: tuple[Prometheus, product.Server]) -> None:
    server, _ = scraped
    phases = {series["metric"]["phase"] for series in server.query("ams_pod_startup_seconds_count == 1")}
    assert phases == {"load", "warm-up", "first-answer"}
    load, answer = (server.value(f'ams_pod_startup_seconds_sum{{phase="{name}"}}') for name in ("load", "first-answer"))
    assert 0 < load < answer
    assert server.value("ams_pod_volume_size_bytes") >= server.value("ams_pod_volume_free_bytes") > 0
    assert server.value('ams_pod_memory_bytes{device="ram",kind="process"}') == server.value("ams_pod_resident_bytes")
    assert server.value("ams_pod_stalled_seconds") == 0


def test_a_client_that_leaves_counts_as_aborted(scraped: tuple[Prometheus, product.Server]) -> None:
    server, pod = scraped
    asked = {"prompt": "hello", "temperature": 0, "max_new_tokens": 1900, "ignore_eos": True}
    with pytest.raises(TimeoutError):
        pod.post("/generate", asked, timeout=0.2)
    server.until('vllm:request_success_total{finished_reason="abort"} == 1')
