"""`ams import` of plain workloads of Kubernetes whose container runs a known server."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from ams_cli.importing.servers import engine_of_image
from imports import imported

DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata:
  name: chat
  namespace: llm
  labels: {app: chat, team: search, model.aibrix.ai/name: chat-model}
spec:
  replicas: 2
  strategy: {type: Recreate}
  selector: {matchLabels: {app: chat}}
  template:
    metadata:
      labels: {app: chat, tier: gold, model.aibrix.ai/name: chat-model}
      annotations: {prometheus.io/scrape: "true", note: mine}
    spec:
      serviceAccountName: models
      schedulerName: volcano
      dnsPolicy: ClusterFirst
      terminationGracePeriodSeconds: 90
      runtimeClassName: nvidia
      priorityClassName: high
      nodeSelector: {gpu: l4}
      tolerations: [{key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}]
      affinity: {podAntiAffinity: {}, nodeAffinity: {}}
      initContainers: [{name: wait, image: busybox}]
      containers:
        - name: vllm
          image: vllm/vllm-openai:v0.14.0
          imagePullPolicy: IfNotPresent
          command: [/bin/bash, -c]
          args:
            - |
              export VLLM_LOGGING_LEVEL=DEBUG
              exec vllm serve $MODEL --max-model-len 8192 --max-num-seqs=32 --tensor-parallel-size 2 \\
                --api-key $VLLM_API_KEY --gpu-memory-utilization 0.9 --chat-template /etc/chat/t.jinja
          env:
            - {name: MODEL, value: Qwen/Qwen3-8B}
            - {name: HF_TOKEN, valueFrom: {secretKeyRef: {name: hf, key: hf-key}}}
            - {name: VLLM_API_KEY, valueFrom: {secretKeyRef: {name: keys, key: key}}}
            - {name: WANDB_API_KEY, value: hunter2}
            - {name: HF_HOME, value: /cache}
          ports: [{containerPort: 8000}]
          resources:
            limits: {nvidia.com/gpu: 2, memory: 48Gi}
            requests: {cpu: "4"}
          volumeMounts:
            - {name: shm, mountPath: /dev/shm}
            - {name: cache, mountPath: /cache}
            - {name: chat, mountPath: /etc/chat}
          securityContext: {privileged: true}
          lifecycle: {preStop: {exec: {command: [sleep, "5"]}}}
        - {name: exporter, image: exporter:1}
      volumes:
        - {name: shm, emptyDir: {medium: Memory}}
        - {name: cache, persistentVolumeClaim: {claimName: hub-cache}}
        - {name: chat, configMap: {name: chat}}
"""


def workload(container: dict[str, Any], kind: str = "Deployment", **pod: Any) -> str:
    spec = {"containers": [{"name": "main", **container}], **pod}
    return yaml.safe_dump(
        {
            "apiVersion": "v1" if kind == "Pod" else "apps/v1", "kind": kind, "metadata": {"name": "m"},
            "spec": spec if kind == "Pod" else {"template": {"spec": spec}},
        }
    )  # fmt: skip


def said(text: str) -> str:
    """The comments as one line."""
    return " ".join(text.replace("\n#", " ").split())


def test_a_deployment_of_vllm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (document,), text, _ = imported(capsys, tmp_path, DEPLOYMENT)
    assert document["metadata"] == {"name": "chat", "namespace": "llm", "labels": {"app": "chat", "team": "search"}}
    assert document["spec"] == {
        "model": {
            "source": "hf://Qwen/Qwen3-8B",
            "tokenSecretRef": {"name": "hf", "key": "hf-key"},
            "aliases": ["Qwen/Qwen3-8B", "chat-model"],
        },
        "engine": {
            "name": "vllm", "image": "vllm/vllm-openai:v0.14.0", "args": ["--gpu-memory-utilization", "0.9"],
            "env": [{"name": "MODEL", "value": "Qwen/Qwen3-8B"}, {"name": "VLLM_LOGGING_LEVEL", "value": "DEBUG"}],
        },
        "limits": {"contextTokens": 8192, "concurrentRequests": 32},
        "cache": {"perReplica": True},
        "replicas": 2,
        "rollout": {"strategy": "Recreate"},
        "resources": {"limits": {"nvidia.com/gpu": 2, "memory": "48Gi"}, "requests": {"cpu": "4"}},
        "nodeSelector": {"gpu": "l4"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {"podAntiAffinity": {}, "nodeAffinity": {}},
        "runtimeClassName": "nvidia",
        "priorityClassName": "high",
        "serviceAccountName": "models",
        "podAnnotations": {"note": "mine"},
        "podLabels": {"tier": "gold"},
        "imagePullPolicy": "IfNotPresent",
    }  # fmt: skip
    for each in (
        "args --api-key: keys are made", "args --chat-template: prompts are made",
        "variable VLLM_API_KEY: keys are made",
        "variable WANDB_API_KEY: a secret in plain text", "variable HF_HOME: not needed", "(/dev/shm): not needed",
        "(/cache): not needed: weights are kept on a volume of the model's own, not in hub-cache",
        "(/etc/chat) (the volume chat): no volumes are mounted", "initContainers[0] (wait): nothing runs before",
        "containers[1] (exporter): a container beside", "securityContext: pods have no privileges",
        "lifecycle: requests are",
        "affinity: the labels that it looks for", "spec.schedulerName (volcano)",
        "terminationGracePeriodSeconds: not needed",
        "template.metadata.annotations: not needed: prometheus.io", "metadata.labels: not needed: labels of aibrix.ai",
    ):  # fmt: skip
        assert each in said(text), each
    assert "hunter2" not in text
    assert "dnsPolicy" not in text


AUTOSCALER = """
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: chat, namespace: llm}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: chat}
  minReplicas: 2
  maxReplicas: 6
  metrics:
    - {type: Pods, pods: {metric: {name: 'vllm:num_requests_running'}, target: {type: AverageValue,
    averageValue: "12"}}}
    - {type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 80}}}
"""
SCALED_OBJECT = """
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {name: chat}
spec:
  scaleTargetRef: {name: chat}
  cooldownPeriod: 120
  pollingInterval: 15
  triggers: [{type: prometheus, metadata: {query: 'sum(vllm:num_requests_waiting)', threshold: "5"}}]
"""


@pytest.mark.parametrize(
    ("scaler", "autoscaling", "lost"),
    [
        (AUTOSCALER, {"minReplicas": 2, "maxReplicas": 6, "targetConcurrency": 12}, "spec.metrics[1] (cpu)"),
        (SCALED_OBJECT, {"minReplicas": 0, "maxReplicas": 100, "idleSeconds": 120}, "spec.triggers[0] (prometheus)"),
        (
            AUTOSCALER.replace("autoscaling/v2", "autoscaling.aibrix.ai/v1alpha1")
            .replace("HorizontalPodAutoscaler", "PodAutoscaler")
            .replace("  minReplicas: 2\n", ""),
            {"minReplicas": 1, "maxReplicas": 6, "targetConcurrency": 12},
            "spec.metrics[1] (cpu)",
        ),
    ],
)
def test_what_scales_it(
    scaler: str, autoscaling: dict[str, int], lost: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (document,), text, _ = imported(capsys, tmp_path, scaler, DEPLOYMENT)
    assert document["spec"]["autoscaling"] == autoscaling
    assert "replicas" not in document["spec"]
    assert f"{lost}: replicas follow the requests in flight" in said(text)
    assert "skipped" not in text
    other = yaml.safe_load(scaler)
    other["spec"]["scaleTargetRef"]["name"] = "other"
    (document,), text, _ = imported(capsys, tmp_path, yaml.safe_dump(other), DEPLOYMENT)
    assert document["spec"]["replicas"] == 2
    assert "skipped" in text


SERVERS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "the image's own command": (
        {"image": "docker.io/vllm/vllm-openai@sha256:0", "args": ["--model=$(ID)", "--dtype", "half"],
         "env": [{"name": "ID", "value": "acme/m"}]},
        {"source": "hf://acme/m", "aliases": ["acme/m"]}, {"precision": "float16"},
    ),
    "a module of Python": (
        {"image": "mine:1", "command": ["python3", "-u", "-m", "vllm.entrypoints.openai.api_server"],
         "args": ["--model", "acme/m", "--served-model-name", "a", "b"]},
        {"source": "hf://acme/m", "aliases": ["a", "b"]}, {},
    ),
    "SGLang": (
        {"image": "lmsysorg/sglang:v0.5.6", "command": ["python3", "-m", "sglang.launch_server"],
         "args": ["--model-path", "acme/m", "--tp", "2", "--context-length", "4096", "--mem-fraction-static", "0.8"],
         "resources": {"limits": {"nvidia.com/gpu": "2"}}},
        {"source": "hf://acme/m", "aliases": ["acme/m"]},
        {"limits": {"contextTokens": 4096},
         "engine": {"name": "sglang", "image": "lmsysorg/sglang:v0.5.6", "args": ["--mem-fraction-static", "0.8"]}},
    ),
    "text-generation-inference": (
        {"image": "ghcr.io/huggingface/text-generation-inference:3.0", "args": ["--num-shard", "2", "--quantize",
         "eetq"],
         "env": [{"name": "MODEL_ID", "value": "acme/m"}, {"name": "MAX_TOTAL_TOKENS", "value": "4096"},
                 {"name": "REVISION", "value": "abc"}, {"name": "HF_TOKEN", "value": "hf_x"}]},
        {"source": "hf://acme/m@abc"},
        {"engine": {"name": "auto"}, "limits": {"contextTokens": 4096}, "quantization": "8bit"},
    ),
    "text-embeddings-inference": (
        {"image": "ghcr.io/huggingface/text-embeddings-inference:cpu-1.7", "args": ["--model-id",
         "BAAI/bge-small-en-v1.5"]},
        {"source": "hf://BAAI/bge-small-en-v1.5", "family": "embedding"}, {"engine": {"name": "auto"}},
    ),
    "llama.cpp": (
        {"image": "ghcr.io/ggml-org/llama.cpp:server-cuda", "args": ["-ngl", "99"],
         "env": [{"name": "LLAMA_ARG_HF_REPO", "value": "a/m-GGUF"}, {"name": "LLAMA_ARG_HF_FILE", "value": "m.gguf"},
                 {"name": "LLAMA_ARG_CTX_SIZE", "value": "8192"}, {"name": "LLAMA_ARG_N_PARALLEL", "value": "2"}]},
        {"source": "hf://a/m-GGUF?file=m.gguf"},
        {"limits": {"concurrentRequests": 2, "contextTokens": 4096},
         "engine": {"name": "llamacpp", "image": "ghcr.io/ggml-org/llama.cpp:server-cuda", "args": ["-ngl", "99"]}},
    ),
    "a claim": (
        {"image": "vllm/vllm-openai", "args": ["--model", "/models/big/x"],
         "volumeMounts": [{"name": "w", "mountPath": "/models", "subPath": "llm"}]},
        {"source": "pvc://weights/llm/big/x", "aliases": ["models/big/x"]}, {},
    ),
    "a GGUF file of a claim": (
        {"command": ["/app/llama-server"], "args": ["-m", "/models/x.gguf"],
         "volumeMounts": [{"name": "w", "mountPath": "/models"}]},
        {"source": "pvc://weights/x.gguf"}, {"engine": {"name": "llamacpp"}},
    ),
    "a folder of the node": (
        {"image": "vllm/vllm-openai", "args": ["--model", "/models/x"], "volumeMounts": [{"name": "h",
         "mountPath": "/models"}]},
        {"source": "file:///srv/m/x", "aliases": ["models/x"]}, {},
    ),
    "adapters": (
        {"image": "vllm/vllm-openai",
         "args": ["--model", "acme/m", "--enable-lora", "--lora-modules", "sql=acme/sql",
                  '{"name": "far", "path": "/models/far"}', "bad_name=a/b", "--max-lora-rank", "64"],
         "volumeMounts": [{"name": "w", "mountPath": "/models"}]},
        {"source": "hf://acme/m", "aliases": ["acme/m"]},
        {"adapters": [{"name": "sql", "source": "hf://acme/sql"}, {"name": "far", "source": "pvc://weights/far"}],
         "engine": {"name": "vllm", "image": "vllm/vllm-openai", "args": ["--max-lora-rank", "64"]}},
    ),
}  # fmt: skip
VOLUMES = [
    {"name": "w", "persistentVolumeClaim": {"claimName": "weights"}}, {"name": "h", "hostPath": {"path": "/srv/m"}},
    {"name": "e", "emptyDir": {}}, {"name": "c", "csi": {"driver": "x"}},
]  # fmt: skip


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "Pod"])
@pytest.mark.parametrize("name", SERVERS)
def test_servers(name: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    container, model, more = SERVERS[name]
    (document,), _, _ = imported(capsys, tmp_path, workload(container, kind, volumes=VOLUMES))
    assert document["spec"]["model"] == model
    assert {field: document["spec"][field] for field in more} == more


@pytest.mark.parametrize(
    ("container", "why"),
    [
        ({"image": "vllm/vllm-openai", "args": ["--model", "/models/x"]}, "is in the image"),
        ({"image": "vllm/vllm-openai", "args": ["--model", "/e/x"], "volumeMounts": [{"name": "e", "mountPath": "/e"}]},
         "is in the empty folder e"),
        ({"image": "vllm/vllm-openai", "args": ["--model", "/c/x"], "volumeMounts": [{"name": "c", "mountPath": "/c"}]},
         "is in the volume c"),
        ({"image": "vllm/vllm-openai", "args": ["--model", "$(M)"]}, "the value of M isn't told"),
        ({"image": "vllm/vllm-openai", "args": ["--model", "s3://bucket/x"]}, "not a source"),
        ({"image": "vllm/vllm-openai", "args": ["--model", "gpt2"]},
         "neither owner/name of the hub nor an absolute path"),
        ({"image": "vllm/vllm-openai", "args": ["--port", "80"]}, "names no model"),
        ({"image": "vllm/vllm-openai", "command": ["/run.sh"]}, "'run.sh' is no server that is known"),
        ({"image": "vllm/vllm-openai", "command": ["sh", "-c", "vllm serve a/b | tee x"]}, "pipes"),
        ({"image": "x", "command": ["sh", "-c", "vllm serve a/b | tee x"]}, "pipes"),
        ({"image": "vllm/vllm-openai", "args": ["--model", "a/b", "--kv-transfer-config", '{"kv_role":"kv_producer"}']},
         "prompts are read by the pods that answer"),
        ({"image": "lmsysorg/sglang", "args": ["--model-path", "a/b", "--disaggregation-mode", "prefill"]},
         "prompts are read by the pods that answer"),
        ({"image": "vllm/vllm-openai:{{ .Values.tag }}", "args": ["--model", "a/b"]}, "a template of Helm"),
        ({"image": "ghcr.io/huggingface/text-generation-inference", "args": []}, "--model-id and MODEL_ID do"),
        ({"image": "ollama/ollama"}, "pulled from its own registry"),
        ({"image": "ollama/ollama", "lifecycle": {"postStart": {"exec": {"command": ["ollama pull qwen3:4b"]}}}},
         "qwen3:4b of its registry can't be a source"),
        ({"image": "ollama/ollama", "command": ["sh", "-c", "ollama serve & ollama pull hf.co/acme/x-GGUF:Q8_0"]},
         "hf://acme/x-GGUF?file=..., the GGUF file of Q8_0"),
        ({"image": "nvcr.io/nim/meta/llama3-8b-instruct:1.0"}, "NVIDIA NIM"),
        ({"image": "vllm/vllm-openai", "args": ["--model", "a/b"], "env": 7},
         "spec.template.spec.containers[0].env: expected a list"),
    ],
)  # fmt: skip
def test_what_cannot_be_served_says_why(
    container: dict[str, Any], why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    documents, text, _ = imported(capsys, tmp_path, workload(container, volumes=VOLUMES), DEPLOYMENT, code=1)
    assert [document["metadata"]["name"] for document in documents] == ["chat"]
    assert why in said(text)


@pytest.mark.parametrize(
    "container",
    [
        {"image": "nginx:1"},
        {"image": "ghcr.io/open-webui/open-webui:ollama", "env": [{"name": "OLLAMA_BASE_URL",
         "value": "http://ollama"}]},
        {"image": "lmcache/lmstack-router", "args": ["--model", "a/b"]},
        {"image": "busybox", "command": ["sh", "-c", "if true; then ls | cat; fi"]},
        {},
    ],
)  # fmt: skip
def test_what_is_no_server_is_passed_over(
    container: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    documents, text, _ = imported(capsys, tmp_path, workload(container), DEPLOYMENT)
    assert len(documents) == 1
    assert "passed over Deployment m: runs no server that is known" in said(text)
    assert "passed over" in imported(capsys, tmp_path, workload(container), code=2)[2]


def test_the_leader_of_a_group(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = (
        "bash /ray.sh leader --ray_cluster_size=$(LWS_GROUP_SIZE); vllm serve acme/m --tensor-parallel-size 8 "
        "--pipeline_parallel_size 2 --distributed-executor-backend ray"
    )
    container = {
        "name": "leader", "image": "vllm/vllm-openai", "command": ["sh", "-c", script],
        "resources": {"limits": {"nvidia.com/gpu": "8"}}, "env": [{"name": "LWS_GROUP_SIZE", "value": "2"}],
    }  # fmt: skip
    group = {"size": 2, "leaderTemplate": {"spec": {"containers": [container]}}, "workerTemplate": {"spec": {}}}
    document = {
        "apiVersion": "leaderworkerset.x-k8s.io/v1", "kind": "LeaderWorkerSet", "metadata": {"name": "big"},
        "spec": {"replicas": 1, "leaderWorkerTemplate": group},
    }  # fmt: skip
    (ours,), text, _ = imported(capsys, tmp_path, yaml.safe_dump(document))
    assert ours["spec"]["engine"] == {
        "name": "vllm", "image": "vllm/vllm-openai", "nodes": 2, "env": [{"name": "LWS_GROUP_SIZE", "value": "2"}],
    }  # fmt: skip
    assert ours["spec"]["cache"] == {"perReplica": True}
    assert "args: bash: what starts the server, or runs before it" in said(text)


def test_config_maps_among_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = {
        "kind": "ConfigMap",
        "apiVersion": "v1",
        "metadata": {"name": "c"},
        "data": {"MODEL_ID": "acme/m", "x": "10"},
    }
    container = {
        "image": "tgi", "envFrom": [{"configMapRef": {"name": "c"}}, {"secretRef": {"name": "s"}},
        {"configMapRef": {"name": "n"}}],
        "env": [{"name": "MAX_TOTAL_TOKENS", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "x"}}}],
    }  # fmt: skip
    (document,), text, _ = imported(capsys, tmp_path, yaml.safe_dump(config), workload(container))
    assert document["spec"]["model"]["source"] == "hf://acme/m"
    assert document["spec"]["limits"] == {"contextTokens": 10}
    assert "envFrom (c): its variables are written out" in said(text)
    assert "envFrom (s): variables of a whole Secret" in said(text)
    assert "envFrom (n): the ConfigMap isn't among the files" in said(text)


def test_an_image_that_is_too_old_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    container = {"image": "vllm/vllm-openai:v0.6.3.post1", "args": ["--model", "a/b"]}
    (document,), text, _ = imported(capsys, tmp_path, workload(container))
    assert document["spec"]["engine"] == {"name": "vllm"}
    assert "engine.image (vllm/vllm-openai:v0.6.3.post1): older than 0.14" in said(text)


@pytest.mark.parametrize(
    ("image", "engine"),
    [
        ("vllm/vllm-openai:v0.10", "vllm"), ("registry:5000/x/vllm-openai-ubi9:0.4", "vllm"), ("lmsysorg/sglang",
         "sglang"),
        ("ghcr.io/ggml-org/llama.cpp:server", "llamacpp"), ("ghcr.io/huggingface/tgi-gaudi:2",
         "text-generation-inference"),
        ("ghcr.io/vllm-project/semantic-router/extproc:latest", ""), ("x/vllm-router:1", ""), ("x/protein:1", ""),
        ("ollama/ollama:rocm", "Ollama"), ("ghcr.io/ollama-webui/ollama-webui", ""), ("", ""),
    ],
)  # fmt: skip
def test_engines_by_image(image: str, engine: str) -> None:
    assert engine_of_image(image) == engine


def test_what_a_cluster_adds_is_no_loss(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As `kubectl get deployments -o yaml` writes it, with the defaults of the API server."""
    container = {
        "name": "main", "image": "vllm/vllm-openai:v0.14.0", "args": ["--model", "a/b"],
        "imagePullPolicy": "IfNotPresent",
        "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
        "resources": {"limits": {"nvidia.com/gpu": "1"}, "requests": {"nvidia.com/gpu": "1"}},
        "ports": [{"containerPort": 8000, "protocol": "TCP"}],
    }  # fmt: skip
    pod = {
        "containers": [container], "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "securityContext": {},
        "schedulerName": "default-scheduler", "terminationGracePeriodSeconds": 30,
    }  # fmt: skip
    spec = {
        "progressDeadlineSeconds": 600, "replicas": 1, "revisionHistoryLimit": 10,
        "selector": {"matchLabels": {"app": "m"}},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
        "template": {"metadata": {"creationTimestamp": None, "labels": {"app": "m"}}, "spec": pod},
    }  # fmt: skip
    metadata = {
        "name": "m", "namespace": "llm", "uid": "1", "resourceVersion": "7", "generation": 1, "managedFields": [{}],
        "annotations": {"deployment.kubernetes.io/revision": "1",
        "kubectl.kubernetes.io/last-applied-configuration": "{}"},
    }  # fmt: skip
    status = {"replicas": 1, "conditions": [{"type": "Available"}]}
    item = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec, "status": status}
    (document,), text, _ = imported(
        capsys, tmp_path, yaml.safe_dump({"apiVersion": "v1", "kind": "List", "items": [item]})
    )
    assert document["metadata"] == {"name": "m", "namespace": "llm"}
    assert "No counterpart" not in text
    assert "podLabels" not in document["spec"]


@pytest.mark.parametrize(
    ("image", "args", "told"),
    [
        ("vllm/vllm-openai", ["--model", "a/b"], "resources.limits: the weights are on all 4 GPUs here"),
        (
            "vllm/vllm-openai",
            ["--model", "a/b", "-tp", "1", "--data-parallel-size=4"],
            "--data-parallel-size (4): each replica",
        ),
        (
            "lmsysorg/sglang",
            ["--model-path", "a/b", "--tp", "1", "--dp-size", "4"],
            "--dp-size (4): each replica has one copy",
        ),
    ],
)
def test_copies_and_shares_are_told(
    image: str, args: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    container = {
        "image": image, "resources": {"limits": {"nvidia.com/gpu": 4}},
        "command": ["python3", "-m", "sglang.launch_server", *args] if "sglang" in image else ["vllm", "serve", *args],
    }  # fmt: skip
    (document,), text, _ = imported(capsys, tmp_path, workload(container))
    assert told in said(text)
    assert not [word for word in document["spec"]["engine"].get("args", []) if "data-parallel" in word or "dp" in word]
