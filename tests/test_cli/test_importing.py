"""`ams import`: documents of other products become ModelDeployments, and nothing of them is lost without a word."""

import io
from pathlib import Path
from typing import Any

import pytest
import yaml
from ams_cli.importing.naming import name_for
from ams_cli.importing.vllm_options import tokens
from ams_cli.importing.words import Option, options
from ams_cli.main import main
from ams_cli.manifests import load_manifests
from imports import imported

KUBEAI = """
apiVersion: kubeai.org/v1
kind: Model
metadata: {name: qwen2.5-72b, labels: {team: search, app.kubernetes.io/managed-by: Helm}}
spec:
  features: [TextGeneration]
  owner: alibaba
  url: hf://Qwen/Qwen2.5-72B-Instruct-AWQ
  engine: VLLM
  args: [--max-model-len=32k, --max-num-seqs=64, --quantization=awq, --tensor-parallel-size=2, --enable-prefix-caching]
  env: {VLLM_USE_V1: "1", HF_TOKEN: from-the-hub}
  envFrom: [{secretRef: {name: more}}]
  files: [{path: /etc/x, content: hello}]
  adapters: [{name: fiction, url: 'hf://me/lora'}]
  minReplicas: 1
  maxReplicas: 3
  targetRequests: 200
  scaleDownDelaySeconds: 90
  resourceProfile: nvidia-gpu-l4:2
"""
PROFILES = """
resourceProfiles:
  nvidia-gpu-l4:
    imageName: nvidia-gpu
    limits: {nvidia.com/gpu: "1"}
    requests: {cpu: "6", memory: 24Gi, nvidia.com/gpu: "1"}
    nodeSelector: {cloud.google.com/gke-accelerator: nvidia-l4}
    tolerations: [{key: nvidia.com/gpu, operator: Equal, value: present, effect: NoSchedule}]
"""
CATALOG = """
resourceProfiles: {mine: {limits: {nvidia.com/gpu: "1"}}}
models:
  catalog:
    qwen:
      {enabled: true, labels: {a: b}, engine: VLLM, url: "hf://Qwen/Qwen3-8B", resourceProfile: "mine:2"}
    unused: {enabled: false, engine: VLLM, url: 'hf://Qwen/Qwen3-4B'}
"""
KSERVE = """
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: llama
  annotations: {serving.kserve.io/deploymentMode: RawDeployment, owner: me}
spec:
  predictor:
    minReplicas: 0
    maxReplicas: 2
    scaleMetric: concurrency
    scaleTarget: 4
    timeout: 90
    serviceAccountName: models
    model:
      modelFormat: {name: huggingface}
      storageUri: hf://meta-llama/Llama-3.1-8B-Instruct:0e9e39f
      args: [--model_name=llama3, --max_model_len=8192, --dtype, half, --gpu_memory_utilization=0.9]
      env: [{name: HF_TOKEN, valueFrom: {secretKeyRef: {name: hf, key: token}}}]
      resources: {limits: {nvidia.com/gpu: "1", memory: 24Gi}}
  transformer: {containers: [{name: t, image: i}]}
"""
RUNTIME = """
apiVersion: serving.kserve.io/v1alpha1
kind: ServingRuntime
metadata: {name: ours}
spec:
  annotations: {prometheus.io/port: "8080", team: search}
  supportedModelFormats: [{name: vLLM}]
  tolerations: [{key: gpu, operator: Exists}]
  volumes: [{name: shm, emptyDir: {medium: Memory}}]
  containers:
    - name: kserve-container
      image: registry/vllm:1
      command: [python, -m, vllm.entrypoints.openai.api_server]
      args: [--model=/mnt/models, '--served-model-name={{.Name}}', --port=8080, --max-num-seqs=8]
      env: [{name: HF_HOME, value: /tmp/hf}, {name: A, value: theirs}]
      resources: {limits: {cpu: "4", nvidia.com/gpu: "1"}}
"""
OF_RUNTIME = """
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {name: granite, annotations: {autoscaling.knative.dev/target: "5"}}
spec:
  predictor:
    minReplicas: 1
    maxReplicas: 1
    model:
      modelFormat: {name: vLLM}
      runtime: ours
      storageUri: pvc://weights/granite
      args: [--max-model-len=4096, --max-num-seqs=16]
      env: [{name: A, value: ours}]
      resources: {limits: {nvidia.com/gpu: "2"}}
"""
LLMISVC = """
apiVersion: serving.kserve.io/v1alpha2
kind: LLMInferenceService
metadata: {name: qwen}
spec:
  model:
    uri: hf://Qwen/Qwen3-8B:abc123
    name: Qwen/Qwen3-8B
    lora:
      maxRank: 64
      adapters: [{name: sql, uri: 'hf://acme/sql'}, {name: far, uri: 's3://bucket/far'}]
  replicas: 3
  parallelism: {tensor: 2, expert: true}
  router: {scheduler: {}, route: {}, gateway: {}}
  prefill: {replicas: 2}
  template:
    serviceAccountName: models
    nodeSelector: {gpu: l4}
    containers:
      - name: main
        image: registry/llm-d:1
        command: [/bin/sh, -c]
        args: [exec vllm serve /mnt/models --max-model-len 8192]
        env:
          - {name: HF_TOKEN, valueFrom: {secretKeyRef: {name: hf, key: token}}}
          - name: VLLM_ADDITIONAL_ARGS
            value: --tool-call-parser hermes --enforce-eager --kv_transfer_config '{"kv_role":"kv_both"}'
        resources: {limits: {nvidia.com/gpu: "2", memory: 32Gi}, requests: {cpu: "2"}}
        livenessProbe: {httpGet: {path: /health, port: 8000}}
        volumeMounts: [{name: x, mountPath: /x}]
      - {name: sidecar, image: other}
"""
KAITO = """
apiVersion: v1
kind: ConfigMap
metadata: {name: params}
data:
  inference_config.yaml: |
    max_probe_steps: 6
    vllm: {max-model-len: 4096, cpu-offload-gb: 0, enable-chunked-prefill: true, tool-call-parser: llama3_json}
---
apiVersion: kaito.sh/v1beta1
kind: Workspace
metadata: {name: workspace-llama-3-1-8b}
resource:
  instanceType: Standard_NC96ads_A100_v4
  labelSelector: {matchLabels: {apps: llama}}
inference:
  preset: {name: llama-3.1-8b-instruct, presetOptions: {modelAccessSecret: hf-token}}
  config: params
  adapters: [{source: {name: chat, image: registry/adapter}}]
"""
LLAMA_SWAP = """
apiKeys: [sk-hunter2]
globalTTL: 300
macros:
  server: llama-server --port ${PORT}
  both: ${server} -c 8192
models:
  "Qwen3-4B (fast)":
    macros: {file: qwen.gguf}
    cmd: |
      # the ${server} of this file
      ${both} -np 4 \\
      -m models/${file} -ngl 99 --temp 0.6 --jinja
    aliases: [gpt-4o-mini, "Qwen3-4B (fast)"]
    env: ["CUDA_VISIBLE_DEVICES=0,1", "HF_TOKEN=${env.HF_TOKEN}"]
    ttl: 60
  hub:
    cmd: llama-server -hf ggml-org/gemma-3-4b-it-GGUF:Q8_0 --port ${PORT}
    concurrencyLimit: 20
  inside:
    cmd: >
      docker run --rm --gpus=all -p ${PORT}:8000 -v /srv/models:/models -e VLLM_LOGGING_LEVEL=INFO
      vllm/vllm-openai:v0.14.0 --model /models/qwen --max-model-len 4096
  whisper: {cmd: 'whisper-server --port ${PORT}'}
peers: {other: {proxy: 'http://x', models: [a], apiKey: sk-secret}}
"""


def test_a_model_of_kubeai(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [document], text, said = imported(capsys, tmp_path, KUBEAI, PROFILES)
    assert document["metadata"] == {"name": "qwen2-5-72b", "labels": {"team": "search"}}
    assert document["spec"] == {
        "model": {"source": "hf://Qwen/Qwen2.5-72B-Instruct-AWQ", "aliases": ["qwen2.5-72b"]},
        "engine": {
            "name": "vllm",
            "args": ["--quantization=awq"],
            "env": [{"name": "VLLM_USE_V1", "value": "1"}],
        },
        "adapters": [{"name": "fiction", "source": "hf://me/lora"}],
        "limits": {"contextTokens": 32000, "concurrentRequests": 64},
        "cache": {"perReplica": True},
        "autoscaling": {"minReplicas": 1, "maxReplicas": 3, "targetConcurrency": 64, "idleSeconds": 90},
        "resources": {
            "limits": {"nvidia.com/gpu": 2},
            "requests": {"cpu": 12, "memory": "48Gi", "nvidia.com/gpu": 2},
        },
        "nodeSelector": {"cloud.google.com/gke-accelerator": "nvidia-l4"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Equal", "value": "present", "effect": "NoSchedule"}],
    }
    for lost in ("spec.envFrom", "spec.files", "spec.owner", "variable HF_TOKEN: a secret in plain text"):
        assert f"#   {lost}" in text
    assert "from-the-hub" not in text
    assert "clients ask for it as MODEL:fiction here" in text
    assert "ams: 1 model imported\nams: 4 things have no counterpart" in said


def test_a_profile_that_is_nowhere_told_is_a_guess_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [document], text, _ = imported(capsys, tmp_path, KUBEAI)
    assert document["spec"]["resources"] == {"limits": {"nvidia.com/gpu": 2}}
    assert "spec.resourceProfile (nvidia-gpu-l4:2): which node has such a GPU" in text


def test_the_values_of_kubeais_chart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (document,), text, _ = imported(capsys, tmp_path, CATALOG)
    assert document["metadata"] == {"name": "qwen", "labels": {"a": "b"}}
    assert document["spec"]["model"] == {"source": "hf://Qwen/Qwen3-8B"}
    assert document["spec"]["resources"] == {"limits": {"nvidia.com/gpu": 2}}
    assert "catalog: 1 of its models aren't enabled" in " ".join(text.replace("\n#", " ").split())
    everything = "all: {enabled: true}\n" + yaml.safe_dump(yaml.safe_load(CATALOG)["models"])
    documents, _, _ = imported(capsys, tmp_path, everything)
    assert [each["metadata"]["name"] for each in documents] == ["qwen", "unused"]


def test_an_inference_service(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [document], text, _ = imported(capsys, tmp_path, KSERVE)
    assert document["metadata"] == {"name": "llama", "annotations": {"owner": "me"}}
    assert document["spec"] == {
        "model": {"source": "hf://meta-llama/Llama-3.1-8B-Instruct@0e9e39f", "aliases": ["llama3"]},
        "engine": {"name": "vllm", "args": ["--gpu_memory_utilization=0.9"]},
        "precision": "float16",
        "limits": {"contextTokens": 8192, "requestTimeoutSeconds": 90},
        "cache": {"perReplica": True},
        "autoscaling": {"minReplicas": 0, "maxReplicas": 2, "targetConcurrency": 4},
        "resources": {"limits": {"nvidia.com/gpu": "1", "memory": "24Gi"}},
        "serviceAccountName": "models",
        "env": [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hf", "key": "token"}}}],
    }
    for lost in ("spec.transformer:", 'metadata.annotations["serving.kserve.io/deploymentMode"] (RawDeployment)'):
        assert f"#   {lost}" in text


@pytest.mark.parametrize(
    ("predictor", "engine"),
    [
        ("{model: {modelFormat: {name: vLLM}, storageUri: 'pvc://c/m'}}", {"name": "vllm"}),
        ("{huggingface: {storageUri: 'hf://a/b', args: [--backend=huggingface]}}", {"name": "builtin"}),
        ("{huggingface: {storageUri: 'hf://a/b'}}", {"name": "auto"}),
        (
            "{containers: [{name: kserve-container, image: 'vllm/vllm-openai:v1', args: [--model, a/b]}]}",
            {"name": "vllm", "image": "vllm/vllm-openai:v1"},
        ),
    ],
)
def test_runtimes_of_kserve(
    predictor: str, engine: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head = "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata: {name: m}\n"
    text = f"{head}spec: {{predictor: {predictor}}}"
    [document], _, _ = imported(capsys, tmp_path, text)
    assert document["spec"]["engine"] == engine


def test_what_a_serving_runtime_adds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (document,), text, _ = imported(capsys, tmp_path, RUNTIME, OF_RUNTIME)
    spec = document["spec"]
    assert spec["model"] == {"source": "pvc://weights/granite"}
    assert spec["engine"] == {
        "name": "vllm",
        "image": "registry/vllm:1",
        "env": [{"name": "HF_HOME", "value": "/tmp/hf"}, {"name": "A", "value": "ours"}],
    }
    assert spec["limits"] == {"contextTokens": 4096, "concurrentRequests": 16}
    assert spec["resources"] == {"limits": {"cpu": "4", "nvidia.com/gpu": "2"}}
    assert spec["podAnnotations"] == {"team": "search"}
    assert spec["tolerations"] == [{"key": "gpu", "operator": "Exists"}]
    assert "annotations" not in document["metadata"]
    for lost in ("runtime ours.volumes", 'metadata.annotations["autoscaling.knative.dev/target"] (5)'):
        assert f"#   {lost}" in text
    assert "skipped" not in text


def test_a_serving_runtime_that_is_elsewhere_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (document,), text, _ = imported(capsys, tmp_path, OF_RUNTIME)
    assert document["spec"]["limits"] == {"contextTokens": 4096, "concurrentRequests": 16}
    assert "spec.predictor.model.runtime (ours): its image, arguments and variables are in a ServingRuntime" in text


def test_a_container_of_vllm_whose_variable_names_the_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    container = {
        "name": "kserve-container", "image": "vllm/vllm-openai:v0.14.0", "command": ["sh", "-c"],
        "args": ["A=1 python3 -m vllm.entrypoints.openai.api_server --model /mnt/models --dtype half"],
        "env": [{"name": "STORAGE_URI", "value": "pvc://claim/qwen"}],
    }  # fmt: skip
    service = {
        "apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "metadata": {"name": "own"},
        "spec": {"predictor": {"maxReplicas": 1, "containers": [container]}},
    }  # fmt: skip
    (document,), text, _ = imported(capsys, tmp_path, yaml.safe_dump(service))
    assert document["spec"]["model"] == {"source": "pvc://claim/qwen"}
    assert document["spec"]["engine"] == {
        "name": "vllm", "image": "vllm/vllm-openai:v0.14.0", "env": [{"name": "A", "value": "1"}],
    }  # fmt: skip
    assert document["spec"]["precision"] == "float16"
    assert "No counterpart" not in text


def test_an_llm_inference_service(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (document,), text, _ = imported(capsys, tmp_path, LLMISVC)
    spec = document["spec"]
    assert spec["model"] == {
        "source": "hf://Qwen/Qwen3-8B@abc123", "toolParser": "hermes", "aliases": ["Qwen/Qwen3-8B"],
    }  # fmt: skip
    assert spec["engine"] == {
        "name": "vllm",
        "image": "registry/llm-d:1",
        "args": ["--enforce-eager", "--enable-expert-parallel", "--max-lora-rank", "64"],
    }
    assert spec["adapters"] == [{"name": "sql", "source": "hf://acme/sql"}]
    assert spec["env"] == [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hf", "key": "token"}}}]
    assert spec["limits"] == {"contextTokens": 8192}
    assert (spec["replicas"], spec["cache"]) == (3, {"perReplica": True})
    assert (spec["serviceAccountName"], spec["nodeSelector"]) == ("models", {"gpu": "l4"})
    assert spec["resources"] == {"limits": {"nvidia.com/gpu": "2", "memory": "32Gi"}, "requests": {"cpu": "2"}}
    for lost in (
        "spec.prefill: prompts are read by the pods that answer",
        "spec.model.lora.adapters[1] (far): spec.model.lora.adapters[1].uri (s3://bucket/far): not a source",
        "spec.template.containers[1] (sidecar): a container beside the model has no place",
        "spec.template.containers[0].volumeMounts",
        "spec.template.containers[0].args --kv-transfer-config: of pods for prefill",
    ):
        assert f"#   {lost}" in text
    assert "Probe" not in text


@pytest.mark.parametrize(
    ("old", "new", "kept"),
    [
        ("replicas: 3", "scaling: {minReplicas: 0, maxReplicas: 4}", {"minReplicas": 0, "maxReplicas": 4}),
        ("replicas: 3", "scaling: {maxReplicas: 4, wva: {}}", {"minReplicas": 1, "maxReplicas": 4}),
    ],
)
def test_scaling_of_an_llm_inference_service(
    old: str, new: str, kept: dict[str, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (document,), _, _ = imported(capsys, tmp_path, LLMISVC.replace(old, new))
    assert document["spec"]["autoscaling"] == kept
    assert "replicas" not in document["spec"]


def test_a_workspace_of_kaito(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [document], text, _ = imported(capsys, tmp_path, KAITO)
    assert document["spec"] == {
        "model": {
            "source": "hf://meta-llama/Llama-3.1-8B-Instruct",
            "tokenSecretRef": {"name": "hf-token", "key": "HF_TOKEN"},
            "toolParser": "llama3",
        },
        "engine": {"name": "vllm", "args": ["--cpu-offload-gb", "0", "--enable-chunked-prefill"]},
        "limits": {"contextTokens": 4096},
        "resources": {"limits": {"nvidia.com/gpu": 4}},
        "nodeSelector": {"node.kubernetes.io/instance-type": "Standard_NC96ads_A100_v4", "apps": "llama"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    }
    assert "#   ConfigMap params.max_probe_steps (6)" in text
    assert "#   inference.adapters[0] (chat): adapters come from images there" in text


def test_a_workspace_that_names_no_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (document,), text, _ = imported(
        capsys, tmp_path, KAITO.replace("  instanceType: Standard_NC96ads_A100_v4\n", "  count: 2\n")
    )
    assert document["spec"]["resources"] == {"limits": {"nvidia.com/gpu": 1}}
    assert "resources.limits: one GPU: no machine is named" in text
    assert "resource.count (2): for a model larger than a node set engine.nodes" in text


def test_an_inference_set_of_kaito(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = """
    {apiVersion: kaito.sh/v1alpha1, kind: InferenceSet, metadata: {name: phi}, spec: {replicas: 2,
     template: {inference: {preset: {name: Microsoft/Phi-4, accessMode: public}}, resource: {instanceType: odd}}}}
    """
    [document], written, _ = imported(capsys, tmp_path, text)
    assert document["spec"]["model"] == {"source": "hf://Microsoft/Phi-4"}
    assert document["spec"]["replicas"] == 2
    assert "spec.template.resource.instanceType (odd): its GPUs are not known here" in written


def test_a_file_of_llama_swap(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_hunter2")
    [fast, hub, inside], text, said = imported(capsys, tmp_path, LLAMA_SWAP, code=1)
    assert fast["metadata"]["name"] == "qwen3-4b-fast"
    assert fast["spec"] == {
        "model": {"source": f"file://{tmp_path}/models/qwen.gguf", "aliases": ["gpt-4o-mini"]},
        "engine": {
            "name": "llamacpp",
            "args": ["-ngl", "99"],
            "env": [{"name": "CUDA_VISIBLE_DEVICES", "value": "0,1"}],
        },
        "limits": {"concurrentRequests": 4, "contextTokens": 2048},
        "autoscaling": {"minReplicas": 0, "maxReplicas": 1, "idleSeconds": 60},
        "resources": {"limits": {"nvidia.com/gpu": 2}},
    }
    assert hub["spec"]["model"] == {"source": "hf://ggml-org/gemma-3-4b-it-GGUF?file=gemma-3-4b-it-Q8_0.gguf"}
    assert hub["spec"]["limits"] == {"concurrentRequests": 16, "queuedRequests": 4}
    assert hub["spec"]["autoscaling"]["idleSeconds"] == 300
    assert inside["spec"]["model"] == {"source": "file:///srv/models/qwen"}
    assert inside["spec"]["engine"] == {
        "name": "vllm",
        "image": "vllm/vllm-openai:v0.14.0",
        "env": [{"name": "VLLM_LOGGING_LEVEL", "value": "INFO"}],
    }
    assert inside["spec"]["limits"] == {"contextTokens": 4096}
    assert "not imported: llama-swap model whisper: 'whisper-server' is no engine that is known" in said
    for lost in ("apiKeys:", "peers:", "name 'Qwen3-4B (fast)':", "HF_TOKEN in the environment", "cmd --temp:"):
        assert lost in text
    assert "hunter2" not in text + said
    assert "sk-secret" not in text + said


@pytest.mark.parametrize(
    "command",
    [
        "nice -n 10 llama-server -m /x.gguf",
        "taskset -c 0-7 /opt/llama-server -m /x.gguf",
        "sudo -u llm env A=1 llama-server -m /x.gguf",
        "bash -lc 'exec llama-server -m /x.gguf'",
        "bash -c 'source /opt/env.sh > /dev/null && exec llama-server -m /x.gguf'",
        "numactl --membind 0 -N 0 -- llama-server -m /x.gguf",
        "docker run --entrypoint llama-server -v /srv:/w acme/anything -m /x.gguf",
        "docker container run acme/my-llama-cpp:1 -m /x.gguf",
    ],
)
def test_a_program_that_another_one_starts(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (document,), text, _ = imported(capsys, tmp_path, yaml.safe_dump({"models": {"a": {"cmd": command}}}))
    assert document["spec"]["model"]["source"] == "file:///x.gguf"
    assert document["spec"]["engine"]["name"] == "llamacpp"
    assert "args" not in document["spec"]["engine"]
    changed = [name for name in ("nice", "taskset", "sudo", "numactl", "source /opt/env.sh") if name in command]
    assert [name for name in changed if f"cmd {name}: how the program is started" not in text] == []


def test_what_docker_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = (
        "docker run --rm --gpus '\"device=0,1\"' --memory 16g -e HF_TOKEN -e A=1 --mount type=bind,src=/srv/m,dst=/m "
        "-it vllm/vllm-openai vllm serve /m/qwen --tensor-parallel-size 2"
    )
    (document,), text, _ = imported(capsys, tmp_path, yaml.safe_dump({"models": {"a": {"cmd": command}}}))
    assert document["spec"]["model"]["source"] == "file:///srv/m/qwen"
    assert document["spec"]["resources"] == {"limits": {"nvidia.com/gpu": 2}}
    assert document["spec"]["engine"] == {
        "name": "vllm", "image": "vllm/vllm-openai", "env": [{"name": "A", "value": "1"}],
    }  # fmt: skip
    assert "cmd --memory: how" in text
    assert "cmd --env HF_TOKEN: how" in text
    assert "cmd --rm" not in text


def test_the_hubs_token_is_the_downloads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = {"cmd": "HF_TOKEN=hf_x A=1 vllm serve acme/gated"}
    (document,), text, _ = imported(capsys, tmp_path, yaml.safe_dump({"models": {"a": model}}))
    assert "env" not in document["spec"]
    assert document["spec"]["engine"] == {"name": "vllm", "env": [{"name": "A", "value": "1"}]}
    assert "hf_x" not in text
    assert "model.tokenSecretRef" in text


def test_gpus_are_as_many_as_share_the_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = "docker run --gpus all vllm/vllm-openai --model acme/big -tp 4"
    (document,), _, _ = imported(capsys, tmp_path, yaml.safe_dump({"models": {"a": {"cmd": command}}}))
    assert document["spec"]["resources"] == {"limits": {"nvidia.com/gpu": 4}}


def test_a_document_that_is_wrong_stops_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = KUBEAI.replace("minReplicas: 1", "minReplicas: many")
    documents, text, said = imported(capsys, tmp_path, wrong, KSERVE, code=1)
    assert [document["metadata"]["name"] for document in documents] == ["llama"]
    assert "spec.minReplicas: expected a whole number, got text" in said
    assert "# Not imported:" in text


def test_what_a_document_spells_stays_in_its_comment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sly = KUBEAI.replace("owner: alibaba", 'owner: "x\\nspec: {image: evil}\\u2028y"')
    [document], text, _ = imported(capsys, tmp_path, sly)
    assert "image" not in document["spec"]
    assert r"x\nspec: {image: evil}\u2028y" in text


@pytest.mark.parametrize(
    "address", ["https://me:hunter2@host/w.gguf", "https://host/w?X-Amz-Signature=hunter2&a=1", "s3://hunter2@bucket/w"]
)
def test_addresses_are_told_without_what_opens_them(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    swap = yaml.safe_dump({"models": {"a": {"cmd": f"llama-server -mu '{address}'"}}})
    for text in (swap, KUBEAI.replace("hf://Qwen/Qwen2.5-72B-Instruct-AWQ", address)):
        _, written, said = imported(capsys, tmp_path, text, code=1)
        assert "hunter2" not in written + said
        assert "..." in written


def test_a_default_that_differs_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    note = "limits.concurrentRequests: 16 unless it is set"
    assert note in imported(capsys, tmp_path, LLMISVC)[1]
    assert note not in imported(capsys, tmp_path, KUBEAI)[1]


def test_names_that_two_would_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    documents, text, _ = imported(capsys, tmp_path, KSERVE, KSERVE.replace("name: llama\n", "name: Llama\n"))
    assert [document["metadata"]["name"] for document in documents] == ["llama", "llama-2"]
    assert [document["spec"]["model"].get("aliases") for document in documents] == [["llama3"], None]
    assert "name 'Llama': is llama already" in text


def test_what_is_asked_for_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    documents, text, _ = imported(capsys, tmp_path, KUBEAI, KSERVE, extra=("--from", "kserve"))
    assert [document["metadata"]["name"] for document in documents] == ["llama"]
    assert "skipped Model" in text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (KUBEAI.replace("VLLM\n", "OLlama\n"), "Ollama"),
        (KUBEAI.replace("hf://Qwen/Qwen2.5-72B-Instruct-AWQ", "s3://bucket/model"), "object stores"),
        (KUBEAI.replace("VLLM\n", "FasterWhisper\n"), "speech recognition"),
        ("models: {catalog: {known-to-the-chart: {enabled: true}}}", "helm template"),
        (KSERVE.replace("hf://meta-llama/Llama-3.1-8B-Instruct:0e9e39f", "gs://bucket/x"), "not a source"),
        (LLMISVC.replace("hf://Qwen/Qwen3-8B:abc123", "oci://registry/qwen"), "not a source"),
        (LLMISVC.replace("exec vllm", "pip install x | tee y; if true; then vllm"), "with 'if'"),
        (KSERVE.replace("name: huggingface", "name: sklearn"), "only models of the formats"),
        (KAITO.replace("llama-3.1-8b-instruct,", "unheard-of,"), "not a preset"),
        (KAITO.replace("inference:\n", "tuning: {method: lora}\ninference:\n"), "not tuned"),
        ("models: {a: {cmd: 'llama-server -m ${nowhere}'}}", "${nowhere} is not defined"),
        ("models: {a: {cmd: 'llama-server --port 1'}}", "names no model"),
        ("models: {a: {cmd: \"llama-server 'x\"}}", "can't be split"),
        ("models: {a: {cmd: ''}}", "cmd is empty"),
        ("models: {a: {cmd: nice -n 5}}", "cmd is empty"),
        ("models: {a: {cmd: '" + "A=1 " * 40_000 + "'}}", "more than"),
        ("models: {a: {cmd: '" + "A=1 " * 20_000 + "'}}", "more than"),
        ("models: {a: 7}", "models.a: expected a mapping, got a whole number"),
        ("models: {a: {cmd: 'bash -c \"llama-server -m /x.gguf | tee y\"'}}", "pipes"),
        (r"models: {a: {cmd: 'C:\llama\llama-server.exe -m D:\x.gguf'}}", "paths of Windows"),
        ("models: {a: {cmd: 'docker run -v models:/m ghcr.io/ggml-org/llama.cpp:server -m /m/x'}}", "volume 'models'"),
        ("models: {a: {cmd: 'docker run ghcr.io/me/mine'}}", "no engine that is known"),
    ],
)  # fmt: skip
def test_what_cannot_be_imported_says_why(
    text: str, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    documents, written, said = imported(capsys, tmp_path, text, code=1)
    assert documents == []
    assert why in said
    assert why in " ".join(written.replace("\n#", " ").split())


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("kind: Secret\napiVersion: v1\n", "holds no model of a product that is known"),
        ("[1, 2]", "holds no model"),
        ("a: [", "line 1"),
        ("catalog: {a: {enabled: false, engine: VLLM, url: 'hf://a/b'}}", "1 of its models aren't enabled"),
        ("{{- if .Values.on }}\na: b\n{{- end }}", "helm template"),
        (KUBEAI.replace("minReplicas: 1", "minReplicas: " + "9" * 5000), "too many digits"),
        (KUBEAI.replace("engine: VLLM", "engine: [VLLM]"), "0.yaml: spec.engine: expected text, got a list"),
        (KUBEAI.replace("minReplicas: 1", "minReplicas: many"), "spec.minReplicas: expected a whole number, got text"),
        (KSERVE.replace("predictor:\n", "predictor: &a\n").replace("timeout: 90", "model: 7"), "is given twice"),
        ("models: {}\nmacros: {PORT: 1}", "llama-swap's own"),
        ("kind: Model\napiVersion: kubeai.org/v1\nspec: {url: 'hf://a/b', engine: VLLM}", "metadata.name: is required"),
    ],
)
def test_odd_files_get_a_sentence(text: str, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, _, said = imported(capsys, tmp_path, text, code=2)
    assert why in said
    assert "Traceback" not in said


def test_macros_do_not_grow_without_bound(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    doubled = "".join(f"  m{n + 1}: '${{m{n}}}${{m{n}}}'\n" for n in range(40))
    _, _, said = imported(capsys, tmp_path, f"macros:\n  m0: x\n{doubled}models: {{}}", code=2)
    assert "once written out" in said


def test_standard_input_and_a_file_to_write(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(KUBEAI))
    assert main(["import", "-", "-o", str(tmp_path / "ours.yaml")]) == 0
    assert [each.metadata.name for each in load_manifests([str(tmp_path / "ours.yaml")]).models] == ["qwen2-5-72b"]
    source = tmp_path / "theirs.yaml"
    source.write_text(KUBEAI)
    assert main(["import", str(source), "-o", str(source)]) == 2
    assert main(["import", str(source), "-o", str(tmp_path / "none" / "x.yaml")]) == 2
    assert source.read_text() == KUBEAI


@pytest.mark.parametrize(
    ("old", "new"),
    [("a", "a"), ("Qwen/Qwen3-8B", "qwen-qwen3-8b"), ("7b", "model-7b"), ("é", "model"), ("x" * 80, "x" * 50)],
)  # fmt: skip
def test_names(old: str, new: str) -> None:
    assert name_for(old, set()) == new


@pytest.mark.parametrize(
    ("text", "count"), [("4096", 4096), ("4k", 4000), ("4K", 4096), ("1.5k", 1500), ("auto", None), ("-1", None)]
)
def test_tokens_as_vllm_takes_them(text: str, count: int | None) -> None:
    assert tokens(text) == count


def test_options_are_read_as_they_are_written() -> None:
    assert list(options(["serve", "--a_b=1", "-c", "-1", "--flag", "--names", "x", "y"])) == [
        Option("", ("serve",), ("serve",)),
        Option("--a-b", ("1",), ("--a_b=1",)),
        Option("-c", ("-1",), ("-c", "-1")),
        Option("--flag", (), ("--flag",)),
        Option("--names", ("x", "y"), ("--names", "x", "y")),
    ]


@pytest.mark.parametrize("product", ["kubeai", "kserve", "kaito", "llama-swap", "kubernetes", "compose"])
def test_what_the_page_shows(product: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "moving-in.md").read_text()
    given = page.partition(f"```yaml\n# {product}.yaml\n")[2].partition("```")[0]
    shown = page.partition(f"$ ams import {product}.yaml\n")[2].partition("```")[0]
    assert imported(capsys, tmp_path, given)[1] == shown
