"""What of a manifest works without a cluster."""

import os
from pathlib import Path

import pytest
from ams_cli.local import notes, refusals, variables
from ams_cli.machine import gpu_count, process_resident_bytes, ram_available
from ams_common.resource.parse import parse_model_deployment
from test_common.resource_cases import manifest


def test_a_claim_is_refused_in_words() -> None:
    adapters = [{"name": "a", "source": "hf://a/b"}, {"name": "b", "source": "pvc://adapters/b"}]
    assert [each[:24] for each in refusals(parse_model_deployment(manifest(spec__adapters=adapters)))] == [
        "spec.adapters[1].source:"
    ]
    assert refusals(parse_model_deployment(manifest(spec__model__source="pvc://weights/x"))) == [
        "spec.model.source: pvc:// is a volume of a cluster; outside one use file:///path, or hf://owner/name to "
        "download the weights"
    ]
    assert refusals(parse_model_deployment(manifest())) == []


def test_a_model_larger_than_a_machine_is_refused_in_words() -> None:
    given = manifest(spec__engine={"name": "vllm", "nodes": 2}, spec__cache__accessMode="ReadWriteMany")
    assert refusals(parse_model_deployment(given)) == [
        "spec.engine.nodes: 2 takes a cluster with LeaderWorkerSet (kubectl apply); this is one machine, so "
        "leave it out for a model that fits here"
    ]


@pytest.mark.parametrize(
    ("changes", "gpus", "words"),
    [
        ({}, 0, []),
        (
            {"spec__nodeSelector": {"a": "b"}, "spec__tolerations": [{"operator": "Exists"}], "spec__image": "x"},
            0,
            ["ignored outside a cluster: nodeSelector, tolerations, image"],
        ),
        (
            {"spec__cache": {"claimName": "x"}, "spec__rollout": {"strategy": "Surge"}},
            0,
            ["ignored outside a cluster: cache, rollout.strategy"],
        ),
        ({"spec__rollout": {"goldenPrompts": [{"prompt": "2+2", "contains": "4"}]}}, 0, []),
        (
            {"spec__env": [{"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"x": 1}}]},
            0,
            ["ignored outside a cluster: env B (valueFrom)"],
        ),
        (
            {"spec__model__tokenSecretRef": {"name": "hub"}},
            0,
            ["Secret hub is not read outside a cluster; the hub's token is HF_TOKEN"],
        ),
        (
            {"spec__resources": {"limits": {"nvidia.com/gpu": 1}}},
            0,
            ["asks for 1 GPU; this machine has none, so the CPU serves it, slower"],
        ),
        ({"spec__resources": {"limits": {"nvidia.com/gpu": "2"}}}, 1, ["asks for 2 GPUs; this machine has 1"]),
        ({"spec__resources": {"limits": {"nvidia.com/gpu": 1, "memory": "8Gi"}}}, 1, []),
        (
            {"spec__replicas": 3, "spec__cache__accessMode": "ReadWriteMany"},
            0,
            ["served by one process instead of up to 3 replicas"],
        ),
    ],
)
def test_differences_are_told(changes: dict[str, object], gpus: int, words: list[str]) -> None:
    assert notes(parse_model_deployment(manifest(**changes)), gpus) == words


def test_variables_of_the_manifest() -> None:
    env = [{"name": "A", "value": "1"}, {"name": "B"}, {"name": "C", "valueFrom": {"x": 1}}]
    assert variables(parse_model_deployment(manifest(spec__env=env))) == {"A": "1", "B": ""}


def test_gpus_are_counted_by_their_device_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpu_count(tmp_path / "absent") == 0
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert gpu_count(tmp_path) == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu_count(tmp_path) == 0


def test_amd_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (tmp_path / "dri").mkdir()
    (tmp_path / "dri" / "renderD128").touch()
    assert gpu_count(tmp_path) == 0
    (tmp_path / "kfd").touch()
    assert gpu_count(tmp_path) == 1


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="needs /proc")
def test_memory_of_this_process() -> None:

    assert (process_resident_bytes(os.getpid()) or 0) > 1 << 20
    assert (ram_available() or 0) > 1 << 20
    assert process_resident_bytes(2**30) is None
