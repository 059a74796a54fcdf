"""Manifests as users write them: what is read, and which words a mistake gets."""

import json
from typing import Any

import msgspec
import pytest
from ams_common.resource.check import FieldProblem
from ams_common.resource.parse import InvalidResource, parse_model_deployment
from ams_common.resource.spec import AutoscalingSpec, CacheSpec, LimitsSpec, ModelDeployment
from hypothesis import given
from hypothesis import strategies as st
from test_common.resource_cases import BAD, GOOD, manifest


def label(document: dict[str, Any]) -> str:
    return json.dumps({"name": document["metadata"]["name"], **document["spec"]})[:80]


def problems_of(document: Any) -> list[FieldProblem]:
    with pytest.raises(InvalidResource) as caught:
        parse_model_deployment(document)
    return caught.value.problems


@pytest.mark.parametrize("document", GOOD, ids=label)
def test_a_valid_manifest_is_read(document: dict[str, Any]) -> None:
    assert isinstance(parse_model_deployment(document), ModelDeployment)


@pytest.mark.parametrize(("document", "path", "sentence"), BAD, ids=[f"{b[1]}-{i}" for i, b in enumerate(BAD)])
def test_a_mistake_is_named_with_its_path(document: dict[str, Any], path: str, sentence: str) -> None:
    assert problems_of(document) == [FieldProblem(path, sentence)]


def test_the_smallest_manifest_gets_every_default() -> None:
    resource = parse_model_deployment(manifest())
    spec = resource.spec
    assert (resource.metadata.name, resource.metadata.namespace) == ("qwen-vl", "default")
    assert (spec.model.family, spec.quantization, spec.precision) == ("auto", "auto", "auto")
    assert spec.fallbacks == ["cpu", "text-only", "simplified"]
    assert spec.limits == LimitsSpec(
        max_new_tokens="auto",
        context_tokens="auto",
        concurrent_requests=16,
        queued_requests=64,
        request_timeout_seconds=600,
        max_body_bytes="64Mi",
        video_frames=8,
    )
    assert spec.cache == CacheSpec(size="auto", access_mode="ReadWriteOnce", retain="Delete", prefetch=False)
    assert (spec.replicas, spec.autoscaling, spec.suspend) == (1, None, False)


def test_autoscaling_gets_its_defaults_when_it_is_there() -> None:
    assert parse_model_deployment(manifest(spec__autoscaling={})).spec.autoscaling == AutoscalingSpec(
        min_replicas=0,
        max_replicas=1,
        target_concurrency=8,
        idle_seconds=300,
        stable_window_seconds=60,
        panic_window_seconds=6,
    )


def test_all_mistakes_are_named_at_once() -> None:
    document = manifest(spec__replicas="2", spec__suspended=True, spec__limits__queuedRequests=-1)
    assert [str(problem) for problem in problems_of(document)] == [
        "spec.replicas: expected int, got str",
        "spec.suspended: unknown field; did you mean suspend?",
        "spec.limits.queuedRequests: expected int >= 0, got -1",
    ]


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (None, "expected mapping, got null"),
        ([], "expected mapping, got list"),
        ("spec", "expected mapping, got str"),
    ],
)
def test_a_document_that_is_no_mapping(document: Any, words: str) -> None:
    assert [str(problem) for problem in problems_of(document)] == [words]


def test_kind_and_version_are_required_and_known() -> None:
    document = manifest(apiVersion="v1")
    del document["kind"]
    assert [str(problem) for problem in problems_of(document)] == [
        "kind: is required",
        "apiVersion: expected aimodelserver.io/v1alpha1, got 'v1'",
    ]


def test_an_exported_resource_is_read() -> None:
    document = manifest(
        status={"whatever": 1},
        metadata__managedFields=[{"manager": "kubectl"}],
        metadata__creationTimestamp="2026-01-01T00:00:00Z",
        metadata__ownerReferences=[],
        metadata__uid="1",
    )
    resource = parse_model_deployment(document)
    assert resource.status is None
    assert resource.metadata.uid == "1"


def test_numbers_as_keys_are_read_as_kubectl_reads_them() -> None:
    assert parse_model_deployment(manifest(spec__maxMemory={0: "8Gi"})).spec.max_memory == {"0": "8Gi"}


def test_what_was_read_is_written_alike() -> None:
    for document in GOOD:
        resource = parse_model_deployment(document)
        again = {"apiVersion": resource.api_version, "kind": resource.kind, **msgspec.to_builtins(resource)}
        assert parse_model_deployment(again) == resource


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["model", "source", "replicas", "autoscaling", "limits", "maxMemory", "env", "", "a.b"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_any_spec_is_read_or_refused_with_a_path(spec: Any) -> None:
    problems: list[FieldProblem] = []
    try:
        parse_model_deployment(manifest(spec=spec))
    except InvalidResource as refusal:
        problems = refusal.problems
    assert all(problem.path.startswith("spec") and problem.sentence for problem in problems)
