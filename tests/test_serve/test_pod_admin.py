"""The admin routes of one pod."""

import asyncio
import importlib.metadata
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from test_serve.echo_pod import EchoPod, echo_pod


@pytest_asyncio.fixture
async def pod(tmp_path: Path) -> AsyncIterator[EchoPod]:
    async with echo_pod(tmp_path, "omni", max_memory='{"0": 8589934592}', info={"quantization": "4bit"}) as running:
        yield running


async def _ask(pod: EchoPod, method: str, path: str) -> Any:
    async with pod.client.request(method, pod.url + path) as response:
        assert response.status == 200
        return await response.json()


def _leave(folder: Path, name: str, size: int, age_seconds: float) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_bytes(bytes(size))
    os.utime(path, (time.time() - age_seconds,) * 2)
    return path


async def test_temp_status(pod: EchoPod) -> None:
    before = await _ask(pod, "GET", "/admin/temp_status")
    assert (before["total_files"], before["files"]) == (0, [])
    left = _leave(pod.temp, f"ams-{os.getpid()}-0123456789ab", 3 << 20, 1800)
    body = await _ask(pod, "GET", "/admin/temp_status")
    assert (body["temp_directory_exists"], body["temp_directory"]) == (True, str(pod.temp))
    assert (body["total_files"], body["total_size_mb"]) == (1, 3.0)
    (file,) = body["files"]
    assert (file["filename"], file["size_bytes"], file["size_mb"], file["path"]) == (left.name, 3 << 20, 3.0, str(left))
    assert file["age_minutes"] == pytest.approx(30, abs=1)
    assert file["age_hours"] == pytest.approx(0.5, abs=0.02)


async def test_cleanup_temp_spares_what_is_in_use(pod: EchoPod) -> None:
    _leave(pod.temp, f"ams-{os.getpid()}-0123456789ab", 1 << 20, 0)
    with pod.pod.intake.folder.file() as descriptor:
        os.write(descriptor, b"in use")
        body = await _ask(pod, "POST", "/admin/cleanup_temp")
        assert (body["cleaned_files"], body["total_size_mb"]) == (1, 1.0)
        assert body["message"] == "Removed 1 temporary files of 1 MB; files in use stay."
        assert (await _ask(pod, "GET", "/admin/temp_status"))["total_files"] == 1
    assert (await _ask(pod, "POST", "/admin/cleanup_temp"))["cleaned_files"] == 0


async def test_emergency_cleanup(pod: EchoPod) -> None:
    _leave(pod.temp, f"ams-{os.getpid()}-0123456789ab", 10, 0)
    body = await _ask(pod, "POST", "/admin/emergency_cleanup")
    assert body["status"] == "success"
    assert body["timestamp"] == pytest.approx(time.time(), abs=60)
    assert (body["freed_bytes"], body["cleaned_files"], pod.engine.freed) == (1 << 28, 1, 1)
    assert body["message"] == "Freed 256 MB of memory and 1 temporary files."


async def test_emergency_cleanup_disturbs_nobody(pod: EchoPod) -> None:
    pod.engine.hold = True
    request = asyncio.create_task(pod.generate())
    await pod.engine.submitted.wait()
    await _ask(pod, "POST", "/admin/emergency_cleanup")
    pod.engine.answer(pod.engine.tickets[0])
    assert (await request)[1]["response"] == "user: what"


async def test_model_status(pod: EchoPod, tmp_path: Path) -> None:
    body = await _ask(pod, "GET", "/admin/model_status")
    assert {name: body[name] for name in ("type", "path", "path_exists", "quant_bits", "max_memory")} == {
        "type": "qwen_omni",
        "path": str(tmp_path),
        "path_exists": True,
        "quant_bits": 4,
        "max_memory": {"0": 8 << 30},
    }
    assert (body["state"], body["modalities"]) == ("ready", ["text", "image", "audio", "video"])
    assert (body["engine_name"], body["engine_version"]) == ("builtin", importlib.metadata.version("ai-model-server"))


async def test_files_of_the_dead_go_at_start(tmp_path: Path) -> None:
    old = _leave(tmp_path / "temp", f"ams-{os.getpid()}-0123456789ab", 10, 3700)
    young = _leave(tmp_path / "temp", f"ams-{os.getpid()}-ba9876543210", 10, 60)
    async with echo_pod(tmp_path, "text") as pod:
        await pod.pod.tidied
        assert not old.exists()
        assert young.exists()


async def test_what_cleans_is_no_get(pod: EchoPod) -> None:
    for path in ("/admin/cleanup_temp", "/admin/emergency_cleanup"):
        async with pod.client.get(pod.url + path) as response:
            assert (response.status, response.headers["Allow"]) == (405, "POST")
