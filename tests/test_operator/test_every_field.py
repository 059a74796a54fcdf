"""Every field of the spec reaches somebody: a child, a pod's settings, or the operator's own decisions.

A field that is added and wired to nothing fails here.
"""

from typing import Any

import msgspec
import pytest
from ams_common.memory_offers import MemoryOffers
from ams_common.resource.parse import parse_model_deployment
from ams_common.resource.shape import is_int_or_string, struct_type, unwrap
from ams_common.resource.spec import ModelDeployment, Spec
from ams_common.source import parse_source
from ams_operator.decide.desired import desired
from ams_operator.decide.engine import engine_of
from msgspec import inspect
from plan_objects import SETTINGS

# What the operator itself decides by; the tests of these decisions are in the module that is named.
OPERATORS_OWN = {
    "model.aliases": "test_plan: names are told; gateways route by them",
    "replicas": "test_plan",
    "suspend": "test_plan",
    "autoscaling.minReplicas": "test_scaling_live",
    "autoscaling.maxReplicas": "test_scaling_live",
    "autoscaling.targetConcurrency": "test_scaling_live",
    "autoscaling.idleSeconds": "test_scaling_live",
    "autoscaling.stableWindowSeconds": "test_scaling_live",
    "autoscaling.panicWindowSeconds": "test_scaling_live",
    "rollout.strategy": "test_plan",
    "cache.size": "test_plan",
    "cache.prefetch": "test_plan",
    "cache.answers.seconds": "test_gateway/test_cluster_registry: gateways keep answers by it",
    "cache.answers.bytes": "test_gateway/test_cluster_registry: gateways keep answers by it",
}
# A value for what can't be made up from its type.
VALUES: dict[str, Any] = {
    "model.source": "hf://acme/other@v2",
    "model.tokenSecretRef.name": "hub",
    "model.tokenSecretRef.key": "secret",
    "model.lock": {"model.safetensors": "0" * 64},
    "model.signature.publicKey": "-----BEGIN PUBLIC KEY-----",
    "model.aliases": ["other"],
    "adapters": [{"name": "sql", "source": "hf://acme/sql-lora"}],
    "maxMemory": {"0": "8Gi"},
    "fallbacks": ["cpu"],
    "cache.size": "2Gi",
    "limits.contextTokens": 2048,
    "limits.prefixCacheTokens": 64,
    "limits.maxNewTokens": 99,
    "limits.imagePixels": 1_000_000,
    "limits.maxBodyBytes": "1Mi",
    "limits.mediaUrlHosts": ["example.com"],
    "rollout.goldenPrompts": [{"prompt": "2+2", "contains": "4"}],
    "resources.limits": {"nvidia.com/gpu": 1},
    "resources.requests": {"cpu": "2"},
    "resources.claims": [{"name": "gpu"}],
    "nodeSelector": {"pool": "gpu"},
    "tolerations": [{"key": "gpu", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {"x": 1}},
    "imagePullSecrets": [{"name": "registry"}],
    "env": [{"name": "A", "value": "1"}],
    "engine.name": "sglang",
    "engine.args": ["--enforce-eager"],
    "engine.env": [{"name": "A", "value": "1"}],
    "engine.port": 9000,
    "engine.resources.limits": {"nvidia.com/gpu": 1},
    "engine.resources.requests": {"cpu": "2"},
    "engine.resources.claims": [{"name": "gpu"}],
    "podAnnotations": {"a": "b"},
    "podLabels": {"a": "b"},
}
# Other fields that a value needs beside it to be valid.
BESIDE: dict[str, dict[str, Any]] = {
    "model.tokenSecretRef.key": {"model.tokenSecretRef.name": "hub"},
    "model.signature.file": {"model.signature.publicKey": "-----BEGIN PUBLIC KEY-----"},
    "replicas": {"cache.perReplica": True},
    "autoscaling.maxReplicas": {"cache.perReplica": True},
    **{
        f"engine.{name}": {"engine.name": "vllm", "engine.image": "vllm:1"}
        for name in ("args", "env", "port", "resources.limits", "resources.requests", "resources.claims")
    },
    "engine.image": {"engine.name": "vllm"},
    "engine.nodes": {
        "engine.name": "vllm",
        "engine.image": "vllm:1",
        "resources.limits": {"nvidia.com/gpu": 8},
        "cache.accessMode": "ReadWriteMany",
    },
    "autoscaling.idle": {"engine.name": "vllm", "engine.image": "vllm:1"},
}


def leaves(kind: inspect.StructType, prefix: str = "") -> list[tuple[str, inspect.Field]]:
    """(path, field) of all that a user can set; structs inside structs are walked into, lists and maps are not."""
    found: list[tuple[str, inspect.Field]] = []
    for field in kind.fields:
        path = f"{prefix}{field.encode_name}"
        inner = unwrap(field.type).kind
        found += leaves(inner, f"{path}.") if isinstance(inner, inspect.StructType) else [(path, field)]
    return found


LEAVES = dict(leaves(struct_type(Spec)))


def another_value(path: str, field: inspect.Field) -> Any:
    """A valid value that isn't the default."""
    if path in VALUES:
        return VALUES[path]
    kind, default = unwrap(field.type).kind, field.default
    if isinstance(kind, inspect.LiteralType):
        return next(value for value in kind.values if value != default)
    if isinstance(kind, inspect.BoolType):
        return not default
    if isinstance(kind, inspect.IntType):
        return (default if isinstance(default, int) else 1) + 1
    if isinstance(kind, inspect.StrType) or is_int_or_string(kind):
        return "another"
    raise AssertionError(f"spec.{path}: give it a value in VALUES")


def resource(**values: Any) -> ModelDeployment:
    document: dict[str, Any] = {
        "apiVersion": "aimodelserver.io/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "tiny", "namespace": "models", "uid": "u-1", "generation": 1},
        "spec": {"model": {"source": "hf://acme/tiny"}},
    }
    for path, value in values.items():
        *parents, last = path.split(".")
        inner = document["spec"]
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = value
    return parse_model_deployment(document)


def children(given: ModelDeployment) -> dict[str, Any]:
    """All children without the hash that tells whether they were applied."""
    source = parse_source(given.spec.model.source)
    made = desired(
        given,
        source,
        SETTINGS,
        replicas=1,
        strategy="Recreate",
        prefetch=False,
        volume_size=1 << 30,
        weights=None,
        lock=None,
        engine=engine_of(given, source, None, MemoryOffers(), SETTINGS),
    )
    for child in made.values():
        child["metadata"].pop("annotations")
    return made


@pytest.mark.parametrize("path", LEAVES)
def test_a_field_of_the_spec_reaches_a_child_or_the_operator(path: str) -> None:
    before = resource(**BESIDE.get(path, {}))
    after = resource(**BESIDE.get(path, {}), **{path: another_value(path, LEAVES[path])})
    assert msgspec.to_builtins(before.spec) != msgspec.to_builtins(after.spec)
    assert (children(before) != children(after)) != (path in OPERATORS_OWN), (
        f"spec.{path} changes no child: wire it (settings_from_spec, or the operator's children), or name it in "
        "OPERATORS_OWN with the test of the decision that it is for"
    )


def test_the_operators_own_fields_exist() -> None:
    assert OPERATORS_OWN.keys() <= LEAVES.keys()
    assert VALUES.keys() <= LEAVES.keys()
