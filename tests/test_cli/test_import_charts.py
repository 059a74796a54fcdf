"""`ams import` of values of charts: vLLM's production stack and llm-d's model service."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from imports import imported

STACK = """
servingEngineSpec:
  runtimeClassName: nvidia
  vllmApiKey: hunter2
  env: [{name: A, value: all}, {name: B, value: all}]
  tolerations: [{key: gpu, operator: Exists}]
  modelSpec:
    - name: Llama.3
      labels: {team: search}
      repository: lmcache/vllm-openai
      tag: v0.3.9
      modelURL: meta-llama/Llama-3.1-8B-Instruct
      modelRevision: abc
      replicaCount: 2
      requestCPU: 10
      requestMemory: 16Gi
      requestGPU: 2
      limitMemory: 32Gi
      pvcStorage: 50Gi
      storageClass: fast
      toolCallParser: llama3_json
      enableTool: true
      chatTemplate: chat.jinja
      vllmConfig:
        enablePrefixCaching: true
        enableChunkedPrefill: false
        maxModelLen: 4096
        dtype: bfloat16
        tensorParallelSize: 2
        maxNumSeqs: 32
        gpuMemoryUtilization: 0.8
        extraArgs: [--disable-log-requests, --swap-space, "16"]
      lmcacheConfig: {enabled: true, cpuOffloadingBufferSize: "20", remote: x}
      hf_token: {secretName: hf, secretKey: key}
      env: [{name: B, value: mine}]
      nodeSelectorTerms: [{matchExpressions: [{key: gpu, operator: In, values: [l4]}]}]
      tolerations: [{key: mine, operator: Exists}]
      podAnnotations: {a: b}
      initContainer: {name: init, image: busybox}
      extraField: 7
    - {name: unused, enabled: false, modelURL: a/b}
    - {name: plain, repository: vllm/vllm-openai, tag: v0.14.0, modelURL: a/b, hf_token: hunter2, vllmConfig: {}}
    - name: scaled
      modelURL: a/c
      requestGPU: 1
      keda: {enabled: true, minReplicaCount: 1, maxReplicaCount: 3, cooldownPeriod: 360, pollingInterval: 15,
             triggers: [{type: prometheus, metadata: {metricName: 'vllm:num_requests_running', threshold: "4"}}]}
    - {name: reads, modelURL: a/b, lmcacheConfig: {enabled: true, kvRole: kv_producer}}
    - {name: nothing}
routerSpec: {enableRouter: true}
cacheserverSpec: {enabled: true}
"""
LLM_D = """
modelArtifacts:
  name: Qwen/Qwen3-32B
  uri: 'hf://{{ .Values.modelArtifacts.name }}'
  size: 80Gi
  authSecretName: hf-token
  labels: {llm-d.ai/inference-serving: "true"}
routing: {servicePort: 8000, modelName: qwen, proxy: {connector: nixlv2}}
accelerator: {type: nvidia}
decode:
  replicas: 3
  parallelism: {tensor: 4}
  acceleratorTypes: {labelKey: gpu, labelValues: [h100, h200]}
  extraConfig: {tolerations: [{key: gpu, operator: Exists}]}
  containers:
    - name: vllm
      image: ghcr.io/llm-d/llm-d-cuda:v0.4
      modelCommand: vllmServe
      imagePullPolicy: Always
      args: [--max-model-len, "16384", --enforce-eager, --kv-transfer-config,
      '{"kv_connector":"NixlConnector","kv_role":"kv_both"}']
      env: [{name: A, value: "1"}]
      resources: {limits: {memory: 64Gi}, requests: {cpu: "8"}}
      mountModelVolume: true
prefill: {replicas: 2, containers: [{name: vllm}]}
requester: {enable: true, port: {spi: 8081}}
"""


def said(text: str) -> str:
    """The comments as one line."""
    return " ".join(text.replace("\n#", " ").split())


def test_the_production_stack(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (document, plain, scaled), text, told = imported(capsys, tmp_path, STACK, code=1)
    assert document["metadata"] == {"name": "llama-3", "labels": {"team": "search"}}
    assert document["spec"] == {
        "model": {
            "source": "hf://meta-llama/Llama-3.1-8B-Instruct@abc", "toolParser": "llama3",
            "tokenSecretRef": {"name": "hf", "key": "key"}, "aliases": ["Llama.3", "meta-llama/Llama-3.1-8B-Instruct"],
        },
        "engine": {
            "name": "vllm",
            "args": ["--no-enable-chunked-prefill", "--gpu-memory-utilization", "0.8", "--swap-space", "16",
                     "--kv-transfer-config", '{"kv_connector": "LMCacheConnectorV1", "kv_role": "kv_both"}'],
            "env": [{"name": "A", "value": "all"}, {"name": "B", "value": "mine"}, {"name": "LMCACHE_LOCAL_CPU",
            "value": "True"},
                    {"name": "LMCACHE_MAX_LOCAL_CPU_SIZE", "value": "20"}],
        },
        "precision": "bfloat16",
        "limits": {"contextTokens": 4096, "concurrentRequests": 32},
        "cache": {"size": "50Gi", "storageClassName": "fast", "perReplica": True},
        "replicas": 2,
        "resources": {
            "limits": {"memory": "32Gi", "nvidia.com/gpu": "2"}, "requests": {"cpu": "10", "memory": "16Gi"},
        },
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": "gpu", "operator": "In", "values": ["l4"]}]}]}}},
        "tolerations": [{"key": "gpu", "operator": "Exists"}, {"key": "mine", "operator": "Exists"}],
        "runtimeClassName": "nvidia",
        "podAnnotations": {"a": "b"},
    }  # fmt: skip
    assert plain["spec"]["limits"] == {"prefixCacheTokens": 0}
    assert scaled["spec"]["autoscaling"] == {
        "minReplicas": 1, "maxReplicas": 3, "targetConcurrency": 4, "idleSeconds": 360,
    }  # fmt: skip
    for each in (
        "modelSpec[0].extraField (7)", "modelSpec[0].lmcacheConfig.remote (x)",
        "modelSpec[0].initContainer: nothing runs",
        "modelSpec[0].chatTemplate: prompts are made", "passed over production stack model unused: isn't enabled",
        "modelSpec[2].hf_token: a secret in plain text", "modelSpec[2].requestGPU: no GPU is asked for",
        "enablePrefixCaching: off, as the chart has it", "keda.pollingInterval: replicas follow",
        "Not imported: production stack model reads", "modelSpec[5].modelURL: missing", "vllmApiKey: keys are made",
        "routerSpec: not needed", "cacheserverSpec: keys and values are kept in each pod",
        "engine.image (lmcache/vllm-openai:v0.3.9)",
    ):  # fmt: skip
        assert each in said(text), each
    assert "hunter2" not in text + told


def test_llm_d(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (document,), text, _ = imported(capsys, tmp_path, LLM_D)
    assert document["metadata"] == {"name": "qwen-qwen3-32b"}
    assert document["spec"] == {
        "model": {
            "source": "hf://Qwen/Qwen3-32B", "tokenSecretRef": {"name": "hf-token", "key": "HF_TOKEN"},
            "aliases": ["Qwen/Qwen3-32B", "qwen"],
        },
        "engine": {
            "name": "vllm", "image": "ghcr.io/llm-d/llm-d-cuda:v0.4", "args": ["--enforce-eager"],
            "env": [{"name": "A", "value": "1"}],
        },
        "limits": {"contextTokens": 16384},
        "cache": {"perReplica": True},
        "replicas": 3,
        "resources": {"limits": {"memory": "64Gi", "nvidia.com/gpu": 4}, "requests": {"cpu": "8"}},
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": "gpu", "operator": "In", "values": ["h100",
            "h200"]}]}]}}},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "imagePullPolicy": "Always",
    }  # fmt: skip
    for each in (
        "requester: pods are made by the operator", "prefill: prompts are read by the pods that answer",
        "routing.proxy: not needed",
        "--kv-transfer-config: of pods for prefill",
    ):  # fmt: skip
        assert each in said(text), each


def changed(**fields: Any) -> str:
    values = yaml.safe_load(LLM_D)
    for path, value in fields.items():
        *parents, last = path.split("__")
        place = values
        for parent in parents:
            place = place[parent]
        place[last] = value
    return yaml.safe_dump(values)


@pytest.mark.parametrize(
    ("uri", "source"),
    [
        ("pvc://weights/qwen/32b", "pvc://weights/qwen/32b"), ("pvc+hf://weights/hub/Qwen/Qwen3-32B",
         "hf://Qwen/Qwen3-32B"),
        ("hf://other/name", "hf://other/name"),
    ],
)  # fmt: skip
def test_artifacts_of_llm_d(uri: str, source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (document,), _, _ = imported(capsys, tmp_path, changed(modelArtifacts__uri=uri))
    assert document["spec"]["model"]["source"] == source
    assert document["spec"]["model"]["aliases"] == ["Qwen/Qwen3-32B", "qwen"]


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"modelArtifacts__uri": "oci://registry/qwen"}, "not a source"),
        ({"modelArtifacts__name": ""}, "modelArtifacts.name: missing"),
        ({"decode__containers": []}, "decode.containers: missing"),
        ({"decode__containers": [{"image": "x", "command": ["nginx"]}]}, "starts no server that is known"),
        ({"decode__containers": [{"image": "ghcr.io/llm-d/llm-d-inference-sim:v1"}]}, "a simulator"),
    ],
)
def test_what_of_llm_d_cannot_be_served(
    fields: dict[str, Any], why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    documents, text, _ = imported(capsys, tmp_path, changed(**fields), code=1)
    assert documents == []
    assert why in said(text)


def test_groups_and_copies_of_llm_d(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (document,), _, _ = imported(capsys, tmp_path, changed(decode__parallelism={"tensor": 8, "workers": 2}))
    assert document["spec"]["engine"]["nodes"] == 2
    (document,), text, _ = imported(
        capsys, tmp_path, changed(decode__parallelism={"tensor": 1, "data": 8, "workers": 2})
    )
    assert "nodes" not in document["spec"]["engine"]
    assert "decode.parallelism.data (8): each replica has one copy" in said(text)
