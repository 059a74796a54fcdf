"""Each request of the older server's documentation, with its exact fields, through the gateway to a real model."""

import base64
from pathlib import Path
from typing import Any

import pytest
from test_media.media_files import picture, saved, sound, video
from test_serve.live_pods import LiveGateway

IMAGE = base64.b64encode(saved(picture(112, 84), "JPEG")).decode()
AUDIO = base64.b64encode(sound("wav", "pcm_s16le", seconds=1.0)).decode()
VIDEO = base64.b64encode(video(sound_codec="aac", frames=20)).decode()
MODELS = {"deepseek", "qwen_vl", "qwen_audio", "qwen_omni", "blip_vqa"}


def _ask(older: LiveGateway, model: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = older.client.post(f"/generate/{model}", body)
    assert answer.status == 200, answer.text
    found: dict[str, Any] = answer.json()
    assert isinstance(found["response"], str)
    assert "degraded" not in found
    return found


def test_deepseek(older: LiveGateway) -> None:
    asked = {"prompt": "Explain quantum computing in simple terms", "max_new_tokens": 256, "temperature": 0.7}
    found = _ask(older, "deepseek", asked)
    assert 1 <= found["usage"]["completion_tokens"] <= 256


def test_qwen_vl(older: LiveGateway) -> None:
    asked = {"prompt": "Describe what you see in this image", "image": IMAGE, "max_new_tokens": 512}
    with_image = _ask(older, "qwen_vl", asked)
    without = _ask(older, "qwen_vl", {"prompt": asked["prompt"], "max_new_tokens": 8})
    assert with_image["usage"]["prompt_tokens"] > without["usage"]["prompt_tokens"]


def test_blip_vqa(older: LiveGateway) -> None:
    assert _ask(older, "blip_vqa", {"prompt": "What color is the car?", "image": IMAGE})["finish_reason"]


def test_qwen_audio(older: LiveGateway) -> None:
    found = _ask(older, "qwen_audio", {"prompt": "Transcribe this audio", "audio": AUDIO, "max_new_tokens": 512})
    assert found["usage"]["prompt_tokens"] > 20


def test_qwen_omni(older: LiveGateway) -> None:
    asked = {"prompt": "Analyze this multimedia content", "max_new_tokens": 512}
    found = _ask(older, "qwen_omni", asked | {"image": IMAGE, "audio": AUDIO, "video": VIDEO})
    assert found["model_type"] == "qwen_omni"
    assert found["generation_method"] in ("multimodal_gpu", "multimodal_cpu")
    assert found["memory_optimized"] is False, "it was loaded in float32"
    text = _ask(older, "qwen_omni", {"prompt": "hello", "max_new_tokens": 4})
    assert text["generation_method"] in ("text_gpu", "text_cpu")
    one = _ask(older, "qwen-omni", {"prompt": "hello", "image": IMAGE, "max_new_tokens": 4})
    assert one["generation_method"] in ("single_modal_gpu", "single_modal_cpu")


def test_memory_status(older: LiveGateway) -> None:
    body = older.client.get("/admin/memory_status").json()
    assert {"timestamp", "gpu_available", "memory_warning", "multimodal_safe"} <= set(body)
    assert isinstance(body["timestamp"], int)
    assert {pod["model"].replace("-", "_") for pod in body["pods"]} == MODELS


def test_model_status(older: LiveGateway) -> None:
    body = older.client.get("/admin/model_status").json()
    assert isinstance(body["timestamp"], int)
    assert set(body["available_models"]) == MODELS
    types = {name: body["model_configs"][name]["type"] for name in body["available_models"]}
    assert types == {
        "deepseek": "text",
        "qwen_vl": "vision-language",
        "qwen_audio": "audio-language",
        "qwen_omni": "qwen_omni",
        "blip_vqa": "vqa",
    }
    for model in body["model_configs"].values():
        assert {"type", "path", "path_exists", "quant_bits", "max_memory"} <= set(model)
        assert model["path_exists"] is True
        assert Path(model["path"]).is_dir()


def test_emergency_cleanup(older: LiveGateway) -> None:
    body = older.client.request("POST", "/admin/emergency_cleanup").json()
    assert (body["status"], len(body["pods"]), body["unreachable"]) == ("success", 5, [])
    assert body["message"]
    assert body["timestamp"]


def test_temp_files(older: LiveGateway) -> None:
    status = older.client.get("/admin/temp_status").json()
    assert {"temp_directory_exists", "temp_directory", "total_files", "total_size_mb", "files"} <= set(status)
    assert status["temp_directory_exists"] is True
    cleaned = older.client.request("POST", "/admin/cleanup_temp").json()
    assert {"message", "cleaned_files", "total_size_mb"} <= set(cleaned)


def test_health(older: LiveGateway) -> None:
    body = older.client.get("/health").json()
    assert body["status"] == "healthy"
    assert {"timestamp", "available_endpoints", "dependencies"} <= set(body)


@pytest.mark.parametrize(
    ("model", "body", "status"),
    [
        ("deepseek", {}, 400),
        ("deepseek", {"prompt": ""}, 400),
        ("qwen_vl", {"prompt": "x", "image": "not base64!"}, 400),
        ("blip_vqa", {"prompt": "x"}, 400),
        ("qwen_audio", {"prompt": "x", "audio": IMAGE}, 400),
        ("deepseek", {"prompt": "x", "image": IMAGE}, 422),
        ("gpt", {"prompt": "x"}, 404),
    ],
)
def test_errors(older: LiveGateway, model: str, body: dict[str, Any], status: int) -> None:
    answer = older.client.post(f"/generate/{model}", body)
    assert answer.status == status
    found = answer.json()
    assert set(found) == {"error", "details"}
    assert isinstance(found["error"], str)
    assert found["details"]["code"]
