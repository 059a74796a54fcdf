"""What a pod says of itself changes with all that changes its answers, and with nothing else."""

import os
from pathlib import Path

import msgspec
from ams_common.pod_settings import ServeSettings
from ams_pod.download.manifest import FileEntry, Manifest, write_manifest
from ams_pod.engines.port import ModelInfo
from ams_pod.serve.answer_version import answer_version

SETTINGS = ServeSettings(name="m", source="file:///m")
INFO = ModelInfo(
    architecture="Llama", family="text", device="cpu", precision="bfloat16", parameters=1, weights_bytes=1,
    context_tokens=64, cache_bytes_per_token=1, concurrent_requests=1, engine="builtin",
)  # fmt: skip


def test_where_a_pod_runs_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    version = answer_version(tmp_path, SETTINGS, INFO)
    moved = msgspec.structs.replace(SETTINGS, port=1, uds="/x", temp_dir="/y", concurrent_requests=2, debug=True)
    assert answer_version(tmp_path, moved, INFO) == version
    assert len(version) == 32


def test_settings_weights_and_device_matter(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    versions = {
        answer_version(tmp_path, SETTINGS, INFO),
        answer_version(tmp_path, msgspec.structs.replace(SETTINGS, max_new_tokens=7), INFO),
        answer_version(tmp_path, msgspec.structs.replace(SETTINGS, quantization="4bit"), INFO),
        answer_version(tmp_path, msgspec.structs.replace(SETTINGS, image_pixels=7), INFO),
        answer_version(tmp_path, SETTINGS, _replaced(INFO, precision="float32")),
    }
    (tmp_path / "config.json").write_text("{ }")
    versions.add(answer_version(tmp_path, SETTINGS, INFO))
    assert len(versions) == 6


def test_hashes_of_a_manifest_tell_weights_and_times_do_not(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"x")
    entry = FileEntry("a" * 64, 1, 0)
    write_manifest(tmp_path, Manifest(source="s", revision="r", files={"model.safetensors": entry}))
    version = answer_version(tmp_path, SETTINGS, INFO)
    os.utime(weights, (1, 1))
    assert answer_version(tmp_path, SETTINGS, INFO) == version
    other = FileEntry("b" * 64, 1, 0)
    write_manifest(tmp_path, Manifest(source="s", revision="r", files={"model.safetensors": other}))
    assert answer_version(tmp_path, SETTINGS, INFO) != version


def test_what_pods_made_of_the_weights_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    version = answer_version(tmp_path, SETTINGS, INFO)
    (tmp_path / "derived").mkdir()
    (tmp_path / "derived" / "tiles-1.bin").write_bytes(b"x")
    assert answer_version(tmp_path, SETTINGS, INFO) == version
    (tmp_path / "more.json").write_text("{}")
    assert answer_version(tmp_path, SETTINGS, INFO) != version


def _replaced(info: ModelInfo, **changes: str) -> ModelInfo:
    from dataclasses import replace

    return replace(info, **changes)  # type: ignore[arg-type]
