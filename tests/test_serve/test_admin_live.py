"""What operators and load balancers ask: health, readiness, load, memory, metrics."""

from prometheus_client.parser import text_string_to_metric_families
from test_serve.live_pods import LiveGateway, LivePod


def test_health(gateway: LiveGateway, tiny: LivePod) -> None:
    body = gateway.client.get("/health").json()
    assert body["status"] == "healthy"
    assert {"timestamp", "available_endpoints", "dependencies"} <= set(body)
    assert body["models"] == {"total": 2, "ready": 2}
    assert gateway.client.get("/ready").json() == {"status": "ready"}
    assert tiny.client.get("/health").json() == {"status": "healthy", "model": "tiny"}
    ready = tiny.client.get("/ready")
    assert (ready.status, ready.json()["phase"]) == (200, "ready")


def test_load(tiny: LivePod) -> None:
    load = tiny.load()
    assert load.pop("resident_bytes") > 50 << 20
    assert load.pop("prompt_tokens") >= 0
    assert load.pop("generated_tokens") >= 0
    assert load == {
        "in_flight": 0,
        "queued": 0,
        "concurrent_requests": 16,
        "queued_requests": 64,
        "cache_tokens": 0,
        "cache_capacity_tokens": 16 * 2048,
        "draining": False,
    }


def test_memory_has_the_older_servers_fields(gateway: LiveGateway, tiny: LivePod) -> None:
    body = gateway.client.get("/admin/memory_status").json()
    assert {"timestamp", "gpu_available", "memory_warning", "multimodal_safe", "pods", "unreachable"} <= set(body)
    assert body["unreachable"] == []
    assert sorted(pod["model"] for pod in body["pods"]) == ["reasoner", "tiny"]
    own = tiny.client.get("/admin/memory_status").json()
    assert {"timestamp", "gpu_available", "memory_warning", "multimodal_safe", "device", "process_gb"} <= set(own)
    if body["gpu_available"]:
        figures = {"gpu_total_gb", "gpu_allocated_gb", "gpu_reserved_gb", "gpu_free_gb", "gpu_utilization_percent"}
        assert figures <= set(body)
    else:
        assert not [name for name in body if name.startswith("gpu_") and name != "gpu_available"]


def test_model_status_has_the_older_servers_fields(gateway: LiveGateway) -> None:
    body = gateway.client.get("/admin/model_status").json()
    assert body["available_models"] == ["reasoner", "tiny"]
    model = body["model_configs"]["tiny"]
    assert {"type", "path", "path_exists", "quant_bits", "max_memory"} <= set(model)
    assert (model["state"], model["replicas"], model["ready_replicas"]) == ("ready", 1, 1)


def test_metrics_of_a_pod(tiny: LivePod) -> None:
    asked = {"prompt": "hi", "max_new_tokens": 6, "temperature": 0, "ignore_eos": True}
    before = _samples(tiny.client.get("/metrics").text)
    assert tiny.client.post("/generate", asked).status == 200
    after = _samples(tiny.client.get("/metrics").text)
    assert after['ams_pod_requests_total{outcome="completed"}'] == 1 + before.get(
        'ams_pod_requests_total{outcome="completed"}', 0
    )
    assert after["ams_pod_decode_tokens_total"] > before["ams_pod_decode_tokens_total"]
    assert after["ams_pod_prefill_tokens_total"] > before["ams_pod_prefill_tokens_total"]
    assert after["ams_pod_inter_token_seconds_count"] == before["ams_pod_inter_token_seconds_count"] + 5
    assert after["ams_pod_resident_bytes"] > 1 << 20
    assert after["ams_pod_running_requests"] == after["ams_pod_queued_requests"] == 0
    assert {'ams_pod_load_phase_seconds{phase="importing"}', 'ams_pod_load_phase_seconds{phase="reading"}'} <= set(
        after
    )


def test_metrics_of_the_gateway(gateway: LiveGateway) -> None:
    name = 'ams_gateway_requests_total{code="200",model="tiny",route="/generate/{model}"}'
    before = _samples(gateway.client.get("/metrics").text)
    assert gateway.client.post("/generate/tiny", {"prompt": "hi", "max_new_tokens": 2}).status == 200
    after = _samples(gateway.client.get("/metrics").text)
    assert after[name] == before.get(name, 0) + 1


def test_requests_are_known_by_their_id(gateway: LiveGateway) -> None:
    body = b'{"prompt":"hi","max_new_tokens":1}'
    answer = gateway.client.request("POST", "/generate/tiny", body, {"X-Request-Id": "my-own.id:1"})
    assert answer.headers["X-Request-Id"] == "my-own.id:1"
    assert float(answer.headers["X-AMS-Queue-Seconds"]) >= 0
    assert answer.headers["X-AMS-Usage"].startswith("prompt=")
    invented = gateway.client.request("POST", "/generate/tiny", body, {"X-Request-Id": "not <good>"})
    assert invented.headers["X-Request-Id"] != "not <good>"


def _samples(text: str) -> dict[str, float]:
    """Values by name and labels."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            found[sample.name + (f"{{{labels}}}" if labels else "")] = sample.value
    return found
