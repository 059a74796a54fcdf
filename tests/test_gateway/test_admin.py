"""The admin routes over several pods: put together, and honest about who didn't answer."""

from typing import Any

import pytest
from ams_gateway.registry.port import ModelFacts
from test_gateway.conftest import Running, Start
from test_gateway.gateway_fakes import Behaviour, Exchange, FakeRegistry


async def _ask(running: Running, method: str, path: str) -> Any:
    async with running.client.request(method, running.url + path) as response:
        assert response.status == 200
        return await response.json()


def _answers(**by_path: Any) -> Behaviour:
    """A pod that answers these admin routes, by method and last word of the path."""

    async def behave(exchange: Exchange) -> None:
        given = by_path.get(f"{exchange.request.method}_{exchange.request.target.rpartition('/')[2]}")
        await exchange.json(404 if given is None else 200, given or {})

    return behave


def _file(name: str, size: int) -> dict[str, Any]:
    return {
        "filename": name, "size_bytes": size, "size_mb": size / (1 << 20), "age_minutes": 1.0, "age_hours": 0.02,
        "path": f"/tmp/{name}",
    }  # fmt: skip


def _folder(folder_id: str, *files: dict[str, Any]) -> dict[str, Any]:
    return {
        "temp_directory_exists": True, "temp_directory": f"/tmp/{folder_id}", "total_files": len(files),
        "total_size_mb": 0.0, "files": list(files), "folder_id": folder_id,
    }  # fmt: skip


async def test_temp_files_of_all_pods(start: Start, pod, registry: FakeRegistry) -> None:
    shared = _folder("one", _file("ams-1-a", 1 << 20), _file("ams-1-b", 1 << 19))
    pods = [await pod(_answers(GET_temp_status=said)) for said in (shared, shared, _folder("two", _file("ams-2-c", 8)))]
    registry.add("a", *(each.address for each in pods))
    body = await _ask(await start(registry, admin_paths=True), "GET", "/admin/temp_status")
    assert body["temp_directory_exists"] is True
    assert body["temp_directory"] == "/tmp/one, /tmp/two"
    assert (body["total_files"], body["total_size_mb"]) == (3, 1.5)
    assert [file["filename"] for file in body["files"]] == ["ams-1-a", "ams-1-b", "ams-2-c"]
    fields = {"filename", "size_bytes", "size_mb", "age_minutes", "age_hours", "path", "model", "pod"}
    assert all(set(file) == fields for file in body["files"])
    assert [found["pod"] for found in body["pods"]] == ["a-0", "a-1", "a-2"]
    assert body["unreachable"] == []


async def test_only_names_of_files_are_told_unless_paths_are_wanted(start: Start, pod, registry: FakeRegistry) -> None:
    report = _folder("secret/place", _file("ams-1-a", 1))
    model = {"path": "/home/someone/models/omni", "state": "ready"}
    running_pod = await pod(_answers(GET_temp_status=report, GET_model_status=model))
    registry.add("m", running_pod.address)
    registry.add("cold", facts=ModelFacts(source="/home/someone/models/cold"))
    registry.add("hub", facts=ModelFacts(source="hf://acme/tiny"))
    running = await start(registry)
    temp = await _ask(running, "GET", "/admin/temp_status")
    assert (temp["temp_directory"], temp["files"][0]["path"], temp["pods"][0]["temp_directory"]) == (
        "place", "ams-1-a", "place",
    )  # fmt: skip
    status = await _ask(running, "GET", "/admin/model_status")
    assert {name: found["path"] for name, found in status["model_configs"].items()} == {
        "m": "omni", "cold": "cold", "hub": "hf://acme/tiny",
    }  # fmt: skip
    assert "/home" not in str(status)


async def test_without_pods(start: Start, registry: FakeRegistry) -> None:
    running = await start(registry)
    status = await _ask(running, "GET", "/admin/temp_status")
    assert (status["temp_directory_exists"], status["total_files"], status["files"]) == (False, 0, [])
    cleaned = await _ask(running, "POST", "/admin/cleanup_temp")
    assert (cleaned["cleaned_files"], cleaned["total_size_mb"]) == (0, 0)
    freed = await _ask(running, "POST", "/admin/emergency_cleanup")
    assert (freed["status"], freed["pods"]) == ("success", [])
    assert freed["timestamp"] > 0


@pytest.mark.parametrize(("good", "bad", "status"), [(2, 0, "success"), (1, 1, "partial"), (0, 2, "error")])
async def test_emergency_cleanup(start: Start, pod, registry: FakeRegistry, good: int, bad: int, status: str) -> None:
    said = {"status": "success", "message": "Freed.", "timestamp": 1, "freed_bytes": 3 << 20}
    pods = [await pod(_answers(POST_emergency_cleanup=said)) for _ in range(good)]
    pods += [await pod(lambda exchange: exchange.json(503, {})) for _ in range(bad)]
    registry.add("a", *(each.address for each in pods))
    body = await _ask(await start(registry), "POST", "/admin/emergency_cleanup")
    assert body["status"] == status
    assert f"Freed {3.0 * good:.1f} MB on {good} of 2 pods" in body["message"]
    assert [found["freed_bytes"] for found in body["pods"]] == [3 << 20] * good
    assert len(body["unreachable"]) == bad


async def test_cleanup_temp(start: Start, pod, registry: FakeRegistry) -> None:
    one = await pod(_answers(POST_cleanup_temp={"message": "x", "cleaned_files": 2, "total_size_mb": 1.5}))
    two = await pod(_answers(POST_cleanup_temp={"message": "x", "cleaned_files": 1, "total_size_mb": 0.25}))
    registry.add("a", one.address, two.address)
    body = await _ask(await start(registry), "POST", "/admin/cleanup_temp")
    assert (body["cleaned_files"], body["total_size_mb"]) == (3, 1.75)
    assert body["message"] == "Removed 3 temporary files of 1.75 MB; files in use stay."


async def test_what_cleans_is_no_get(start: Start, registry: FakeRegistry) -> None:
    running = await start(registry)
    for path in ("/admin/cleanup_temp", "/admin/emergency_cleanup"):
        async with running.client.get(running.url + path) as response:
            assert (response.status, response.headers["Allow"]) == (405, "POST")


async def test_models_as_their_pods_know_them(start: Start, pod, registry: FakeRegistry) -> None:
    said = {
        "model": "x", "type": "qwen_omni", "path": "/models/omni", "path_exists": True, "quant_bits": 4,
        "max_memory": {"0": 8}, "state": "ready", "modalities": ["text", "image"], "device": "cuda",
        "architecture": "Qwen2_5OmniModel", "precision": "bfloat16", "quantization": "4bit",
        "quantization_reason": "it fits", "context_tokens": 4096, "engine": "vLLM 0.32.0",
        "engine_name": "vllm", "engine_version": "0.32.0",
        "adapters": [{"name": "sql", "state": "failed", "message": "Its lock differs."}],
    }  # fmt: skip
    running_pod = await pod(_answers(GET_model_status=said))
    registry.add("qwen-omni", running_pod.address, facts=ModelFacts(quantization_bits=8, max_memory={"0": "9Gi"}))
    registry.add("cold", facts=ModelFacts(model_type="text", max_memory={"cpu": "9Gi"}))
    body = await _ask(await start(registry, admin_paths=True), "GET", "/admin/model_status")
    assert body["available_models"] == ["cold", "qwen_omni"]
    omni = body["model_configs"]["qwen_omni"]
    older = {name: omni[name] for name in ("type", "path", "path_exists", "quant_bits", "max_memory")}
    assert older == {name: said[name] for name in older}
    assert omni["pods"][0] == said | {"model": "qwen-omni", "pod": "qwen-omni-0"}
    assert omni["engine_version"] == "0.32.0"
    cold = body["model_configs"]["cold"]
    assert cold["engine_version"] is None
    assert (cold["type"], cold["quant_bits"], cold["max_memory"]) == ("text", None, {"cpu": "9Gi"})


async def test_a_report_that_makes_no_sense_counts_as_none(start: Start, pod, registry: FakeRegistry) -> None:
    odd = await pod(
        _answers(GET_temp_status=_folder("one") | {"files": [1, None]}, POST_cleanup_temp={"cleaned_files": "many"})
    )
    empty = await pod(_answers(GET_temp_status={}, POST_cleanup_temp={}))
    registry.add("a", odd.address, empty.address)
    running = await start(registry)
    for method, path in (("GET", "/admin/temp_status"), ("POST", "/admin/cleanup_temp")):
        body = await _ask(running, method, path)
        assert [report["pod"] for report in body["pods"]] == ["a-1"]
        assert body["unreachable"] == [{"model": "a", "pod": "a-0"}]


HOSTILE = {
    "no UTF-8": b'{"a":"\xff"}',
    "no UTF-8 in a known field": b'{"model":"\xff","message":"\xfe"}',
    "60,000 brackets": b'{"x":' + b"[" * 60_000,
    "too deep to be encoded again": b'{"max_memory":{"a":' + b'{"a":' * 900 + b"1" + b"}" * 902,
    "sums too large to be encoded": b'{"cleaned_files":18446744073709551615,"freed_bytes":18446744073709551615,'
    b'"files":[{"size_bytes":18446744073709551615}]}',
    "a million values": b'{"files":[' + b"{}," * 300_000 + b"{}]}",
    "a number out of range": b'{"timestamp":1e999}',
    "HTML": b"<html>",
    "nothing": b"",
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE.keys())
async def test_whatever_one_pod_says_the_others_are_reported(
    start: Start, pod, registry: FakeRegistry, body: bytes
) -> None:
    hostile = [await pod(lambda exchange: exchange.answer(200, body, Content_Type="application/json")) for _ in "ab"]
    good = await pod(lambda exchange: exchange.json(200, {}))
    registry.add("bad", *(each.address for each in hostile))
    registry.add("good", good.address)
    running = await start(registry)
    for method, path in (
        ("GET", "/admin/memory_status"),
        ("GET", "/admin/model_status"),
        ("GET", "/admin/temp_status"),
        ("POST", "/admin/cleanup_temp"),
        ("POST", "/admin/emergency_cleanup"),
    ):
        report = await _ask(running, method, path)
        if "pods" in report:
            assert "good-0" in [each["pod"] for each in report["pods"]]
        else:
            assert report["model_configs"]["good"]["pods"][0]["pod"] == "good-0"


async def test_a_report_that_never_ends_counts_as_none(start: Start, pod, registry: FakeRegistry) -> None:
    async def endless(exchange: Exchange) -> None:
        await exchange.start_stream()
        while True:
            await exchange.chunk(b" " * (1 << 20))

    registry.add("a", (await pod(endless)).address)
    body = await _ask(await start(registry), "GET", "/admin/temp_status")
    assert body["unreachable"] == [{"model": "a", "pod": "a-0"}]


async def test_a_kept_connection_that_was_closed_is_replaced(start: Start, pod, registry: FakeRegistry) -> None:
    asked = await pod(_answers(GET_temp_status=_folder("one")))
    registry.add("a", asked.address)
    running = await start(registry)
    for _ in range(2):
        body = await _ask(running, "GET", "/admin/temp_status")
        assert body["unreachable"] == []
        asked.drop_connections()
