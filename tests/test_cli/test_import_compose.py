"""`ams import` of services of Docker Compose."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from imports import imported

COMPOSE = """
x-common: &common {restart: always, networks: [ai]}
services:
  chat:
    <<: *common
    image: vllm/vllm-openai:${VLLM_TAG:-v0.14.0}
    container_name: vllm
    ipc: host
    ports: ["8000:8000"]
    environment:
      - HF_TOKEN=${HF_TOKEN}
      - VLLM_LOGGING_LEVEL=${LEVEL:-INFO}
      - SOME_API_KEY=hunter2
      - UNTOLD
    command: >
      --model ${MODEL:-Qwen/Qwen3-8B} --max-model-len 8192 --gpu-memory-utilization "0.9"
      --tensor-parallel-size 2 --api-key ${KEY} --swap-space ${SWAP}
    volumes: ["~/.cache/huggingface:/root/.cache/huggingface", "./logs:/app/logs"]
    deploy:
      resources:
        limits: {memory: 48g, cpus: "8"}
        reservations: {devices: [{driver: nvidia, count: all, capabilities: [gpu]}]}
  embed:
    image: ghcr.io/huggingface/text-embeddings-inference:cpu-1.7
    environment: {MODEL_ID: BAAI/bge-m3, MAX_BATCH_TOKENS: 16384, NOTE: true}
    env_file: .env
  llama:
    image: ghcr.io/ggml-org/llama.cpp:server-cuda
    command: [-m, /models/x.gguf, -c, "8192", -np, "2", -ngl, "99"]
    volumes: [{type: bind, source: ./models, target: /models}]
    runtime: nvidia
    privileged: true
    mem_limit: 512m
  web: {image: ghcr.io/open-webui/open-webui:main, environment: {OPENAI_API_KEY: hunter2}}
  db: {build: ./db}
volumes: {x: {}}
"""


def said(text: str) -> str:
    """The comments as one line."""
    return " ".join(text.replace("\n#", " ").split())


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MODEL", "KEY", "SWAP", "HF_TOKEN", "VLLM_TAG", "LEVEL", "UNTOLD", "M"):
        monkeypatch.delenv(name, raising=False)


def test_services(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (chat, embed, llama), text, told = imported(capsys, tmp_path, COMPOSE)
    assert chat["metadata"] == {"name": "chat"}
    assert chat["spec"] == {
        "model": {"source": "hf://Qwen/Qwen3-8B", "aliases": ["Qwen/Qwen3-8B"]},
        "engine": {
            "name": "vllm", "image": "vllm/vllm-openai:v0.14.0", "args": ["--gpu-memory-utilization", "0.9"],
            "env": [{"name": "VLLM_LOGGING_LEVEL", "value": "INFO"}],
        },
        "limits": {"contextTokens": 8192},
        "replicas": 1,
        "resources": {"limits": {"nvidia.com/gpu": 2, "memory": "48Gi", "cpu": "8"}},
    }  # fmt: skip
    assert embed["spec"] == {
        "model": {"source": "hf://BAAI/bge-m3", "family": "embedding"}, "engine": {"name": "auto"}, "replicas": 1,
    }  # fmt: skip
    assert llama["spec"]["model"] == {"source": f"file://{tmp_path}/models/x.gguf"}
    assert llama["spec"]["limits"] == {"concurrentRequests": 2, "contextTokens": 4096}
    assert llama["spec"]["resources"] == {"limits": {"nvidia.com/gpu": 1, "memory": "512Mi"}}
    for each in (
        "services: passed over web, db: no server that is known",
        "environment (HF_TOKEN): HF_TOKEN in the environment of `ams up`",
        "environment (UNTOLD): the value of UNTOLD isn't told", "command --swap-space: the value of SWAP isn't told",
        "command --api-key: the value of KEY isn't told", "variable SOME_API_KEY: a secret in plain text",
        "(/root/.cache/huggingface): not needed", "(/app/logs): nothing is mounted",
        "services.embed.env_file: files of variables aren't read",
        "variable NOTE: of text-embeddings-inference", "services.llama.privileged (True)",
        "--max-batch-tokens: of text-embeddings-inference",
    ):  # fmt: skip
        assert each in said(text), each
    assert "hunter2" not in text + told


def test_variables_are_of_the_environment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL", "acme/m")
    monkeypatch.setenv("HF_TOKEN", "hunter2")
    monkeypatch.setenv("KEY", "hunter2")
    (chat, *_), text, told = imported(capsys, tmp_path, COMPOSE)
    assert chat["spec"]["model"]["source"] == "hf://acme/m"
    assert "hunter2" not in text + told


GPU = {"driver": "nvidia", "capabilities": ["gpu"]}


@pytest.mark.parametrize(
    ("fields", "count"),
    [
        ({"deploy": {"resources": {"reservations": {"devices": [{**GPU, "count": 2}]}}}}, 2),
        ({"deploy": {"resources": {"reservations": {"devices": [{**GPU, "count": "${N:-4}"}]}}}}, 4),
        ({"deploy": {"resources": {"reservations": {"devices": [{**GPU, "device_ids": ["0", "3"]}]}}}}, 2),
        ({"deploy": {"resources": {"reservations": {"devices": [GPU]}}}}, 1),
        ({"gpus": "all"}, 1),
        ({"runtime": "nvidia", "environment": ["NVIDIA_VISIBLE_DEVICES=0,1,2"]}, 3),
        ({"runtime": "nvidia", "environment": {"NVIDIA_VISIBLE_DEVICES": "all"}}, 1),
        ({}, None),
    ],
)
def test_gpus(fields: dict[str, Any], count: int | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    service = {"image": "vllm/vllm-openai", "command": "--model a/b", **fields}
    (document,), text, _ = imported(capsys, tmp_path, yaml.safe_dump({"services": {"m": service}}))
    assert document["spec"].get("resources") == ({"limits": {"nvidia.com/gpu": count}} if count else None)
    assert ("no GPU is asked for" in said(text)) is (count is None)


@pytest.mark.parametrize(
    ("service", "why"),
    [
        ({"image": "vllm/vllm-openai", "command": "--model ${M}"}, "the value of M isn't told"),
        ({"image": "tgi", "environment": {"MODEL_ID": "${M}"}}, "the value of M isn't told"),
        ({"image": "tgi", "command": "${M} --port 80"}, "the value of M isn't told"),
        ({"image": "x", "command": "vllm serve 'a"}, "can't be split into words"),
        ({"image": "vllm/vllm-openai", "command": "--model /models/x", "volumes": ["models:/models"]},
         "the volume models of Docker"),
        ({"image": "ollama/ollama"}, "Ollama"),
        ({"image": "nvcr.io/nim/meta/llama3:1"}, "NVIDIA NIM"),
        ({"image": "vllm/vllm-openai", "command": "--model a/b", "deploy": 7}, "services.m.deploy: expected a mapping"),
    ],
)  # fmt: skip
def test_what_cannot_be_served_says_why(
    service: dict[str, Any], why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    documents, text, _ = imported(capsys, tmp_path, yaml.safe_dump({"services": {"m": service}}), code=1)
    assert documents == []
    assert why in said(text)
