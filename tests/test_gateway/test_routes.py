"""Routes that the gateway answers itself."""

import pytest
from ams_common.lifecycle import Phase
from ams_common.progress import Download, Progress
from ams_gateway.registry.port import ModelFacts
from test_gateway.conftest import Start
from test_gateway.gateway_fakes import Exchange, FakeRegistry


async def _get(running, path: str):
    async with running.client.get(running.url + path) as response:
        return response.status, await response.json()


async def test_health_has_the_older_servers_fields(start: Start, pod, registry: FakeRegistry) -> None:
    registry.add("a", (await pod()).address)
    registry.add("b")
    running = await start(registry)
    status, health = await _get(running, "/health")
    assert (status, health["status"], health["models"]) == (200, "healthy", {"total": 2, "ready": 1})
    assert "/generate/{model}" in health["available_endpoints"]
    assert health["dependencies"]["aiohttp"]
    assert isinstance(health["timestamp"], int)
    assert await _get(running, "/ready") == (200, {"status": "ready"})


async def test_models(start: Start, registry: FakeRegistry) -> None:
    registry.add("qwen-vl", aliases=("vl",), created=3)
    running = await start(registry)
    card = {
        "id": "qwen-vl", "object": "model", "created": 3, "owned_by": "ai-model-server", "root": "qwen-vl",
        "parent": None, "state": "pending", "max_model_len": None, "max_completion_tokens": None, "modalities": None,
        "features": None,
    }  # fmt: skip
    assert await _get(running, "/v1/models") == (200, {"object": "list", "data": [card, card | {"id": "vl"}]})
    assert await _get(running, "/v1/models/qwen_vl") == (200, card)
    assert await _get(running, "/v1/models/VL") == (200, card | {"id": "vl"})


async def test_metrics_on_their_own_port(start: Start, registry: FakeRegistry, unused_tcp_port: int) -> None:
    running = await start(registry, metrics_port=unused_tcp_port)
    async with running.client.get(running.url + "/metrics") as response:
        assert response.status == 404
    async with running.client.get(f"http://127.0.0.1:{unused_tcp_port}/metrics") as response:
        assert response.headers["Content-Type"].startswith("text/plain")
        text = await response.text()
    assert 'ams_gateway_requests_total{code="404",model="_unknown",route="-"} 1.0' in text
    assert "process_resident_memory_bytes" in text
    async with running.client.get(f"http://127.0.0.1:{unused_tcp_port}/generate/m") as response:
        assert response.status == 404


async def test_metrics_of_a_request_and_of_a_model_that_goes(start: Start, pod, registry: FakeRegistry) -> None:
    registry.add("m", (await pod()).address)
    running = await start(registry)
    await running.post("/generate/m", {"prompt": "x"})
    text = await running.metrics()
    labels = 'model="m",route="/generate/{model}"'
    assert f'ams_gateway_requests_total{{code="200",{labels}}} 1.0' in text
    assert f'ams_gateway_request_duration_seconds_bucket{{le="+Inf",{labels}}} 1.0' in text
    assert f"ams_gateway_time_to_first_byte_seconds_count{{{labels}}} 1.0" in text
    assert 'ams_gateway_requests_in_flight{model="m"} 0.0' in text
    assert 'ams_gateway_tokens_total{model="m",token_type="output"} 2.0' in text
    del registry.entries["m"]
    assert 'model="m"' not in await running.metrics()


async def test_the_log_has_a_line_a_request_without_its_words(start: Start, pod, registry: FakeRegistry) -> None:
    registry.add("m", (await pod()).address)
    running = await start(registry)
    await running.post("/generate/m?key=hidden", {"prompt": "secret"}, headers={"X-Request-Id": "one"})
    async with running.client.get(running.url + "/health") as response:  # a probe, which gets no line
        assert response.status == 200
    await running.gateway.close()
    (line,) = running.log
    assert line.pop("time").endswith("Z")
    assert line.pop("seconds") > 0
    assert line.pop("first_byte_seconds") > 0
    assert line == {
        "id": "one", "method": "POST", "path": "/generate/m", "route": "/generate/{model}", "model": "m", "code": 200,
        "prompt_tokens": 3, "completion_tokens": 2, "pod": "m-0",
    }  # fmt: skip


GPU = {
    "gpu_available": True,
    "gpu_total_gb": 24.0,
    "gpu_allocated_gb": 8.0,
    "gpu_reserved_gb": 9.0,
    "gpu_free_gb": 15.0,
}


async def test_memory_of_all_pods(start: Start, pod, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ams_gateway.proxy.pod_client._TIMEOUT_SECONDS", 0.2)

    async def silent(exchange: Exchange) -> None:
        await exchange.until_client_is_gone()

    good = await pod(
        lambda e: e.json(200, GPU | {"memory_warning": False, "multimodal_safe": True, "device": "cuda:0"})
    )
    tight = await pod(lambda e: e.json(200, GPU | {"memory_warning": True, "multimodal_safe": False}))
    cpu = await pod(lambda e: e.json(200, {"gpu_available": False}))
    broken = await pod(lambda e: e.json(500, {}))
    registry.add("a", good.address, tight.address)
    registry.add("b", cpu.address, broken.address, (await pod(silent)).address)
    status, memory = await _get(await start(registry), "/admin/memory_status")
    assert status == 200
    assert (memory["gpu_available"], memory["gpu_total_gb"], memory["gpu_free_gb"]) == (True, 48.0, 30.0)
    assert (memory["gpu_utilization_percent"], memory["memory_warning"], memory["multimodal_safe"]) == (
        37.5,
        True,
        False,
    )
    assert [(found["model"], found["pod"]) for found in memory["pods"]] == [("a", "a-0"), ("a", "a-1"), ("b", "b-0")]
    assert memory["pods"][0]["device"] == "cuda:0"
    assert memory["unreachable"] == [{"model": "b", "pod": "b-1"}, {"model": "b", "pod": "b-2"}]


async def test_memory_without_a_gpu(start: Start, registry: FakeRegistry) -> None:
    _, memory = await _get(await start(registry), "/admin/memory_status")
    assert memory.pop("timestamp") > 0
    assert memory == {"gpu_available": False, "pods": [], "unreachable": []}


async def test_model_status(start: Start, pod, registry: FakeRegistry) -> None:
    silent = await pod(lambda exchange: exchange.json(500, {}))
    registry.add(
        "qwen-vl", silent.address, modalities=frozenset({"text", "image"}),
        facts=ModelFacts(
            model_type="vision-language", source="/models/x", quantization_bits=4, max_memory={"0": "8Gi"},
            engine="vllm", engine_reason="a GPU is asked for",
        ),
    )  # fmt: skip
    registry.add("cold")
    registry.set_progress("cold", Progress(phase=Phase.DOWNLOADING, download=Download(bytesDone=5, bytesTotal=10)))
    _, status = await _get(await start(registry), "/admin/model_status")
    assert status["available_models"] == ["cold", "qwen_vl"]
    assert status["model_configs"]["qwen_vl"] == {
        "type": "vision-language", "path": "x", "path_exists": True, "quant_bits": 4,
        "max_memory": {"0": "8Gi"},
        "state": "ready", "replicas": 1, "ready_replicas": 1, "message": "", "modalities": ["image", "text"],
        "download": None, "pods": [], "engine": "vllm", "engine_reason": "a GPU is asked for",
        "engine_version": None,
    }  # fmt: skip
    assert status["unreachable"] == [{"model": "qwen-vl", "pod": "qwen-vl-0"}]
    cold = status["model_configs"]["cold"]
    assert (cold["state"], cold["ready_replicas"], cold["path_exists"]) == ("downloading", 0, False)
    assert cold["download"] == {"bytesDone": 5, "bytesTotal": 10}
