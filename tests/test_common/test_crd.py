"""The CustomResourceDefinition: up to date, structural, and with every default."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ams_common import crd
from ams_common.resource import explanations
from ams_common.resource.parse import parse_model_deployment
from ams_common.resource.rules import RULES
from test_common.resource_cases import GOOD, manifest

FILE = Path(__file__).parents[2] / "crds" / "modeldeployments.yaml"
VERSION = crd.definition()["spec"]["versions"][0]
SCHEMA = VERSION["schema"]["openAPIV3Schema"]

# What a structural schema may hold at a node; anything else the API server refuses or ignores.
KEYWORDS = {
    "additionalProperties",
    "anyOf",
    "default",
    "description",
    "enum",
    "format",
    "items",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minimum",
    "pattern",
    "properties",
    "required",
    "type",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-list-type",
    "x-kubernetes-validations",
}


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from nodes(inner, f"{path}.{name}" if path else name)
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[*]")
    if "additionalProperties" in schema:
        yield from nodes(schema["additionalProperties"], f"{path}.*")


def filled(value: Any, schema: dict[str, Any]) -> Any:
    """What the API server stores: defaults filled in from the root down."""
    if isinstance(value, dict):
        for name, inner in schema.get("properties", {}).items():
            if value.get(name) is None and "default" in inner:
                value = {**value, name: inner["default"]}
        known = schema.get("properties", {})
        return {name: filled(item, known[name]) if name in known else item for name, item in value.items()}
    return value


def test_the_file_is_what_the_types_say() -> None:
    assert FILE.read_text() == crd.text(), "run: python -m ams_common.crd > crds/modeldeployments.yaml"


def test_it_is_small_enough_for_an_annotation_and_for_helm() -> None:
    assert len(crd.text().encode()) < 90_000


def test_kubectl_explain_has_words_for_every_field() -> None:
    properties = crd.definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    for part in ("spec", "status"):
        silent = [path for path, schema in nodes(properties[part], part) if "description" not in schema]
        assert [path for path in silent if not path.endswith(("[*]", ".*")) and path != part] == []


def test_no_words_are_left_over() -> None:
    given = {schema.get("description") for _, schema in nodes(SCHEMA)}
    assert [text for text in explanations._TEXTS.values() if text not in given] == []


def test_the_yaml_says_the_same_as_the_document() -> None:
    assert yaml.safe_load(crd.text()) == crd.definition()


def test_the_schema_is_structural() -> None:
    for path, node in nodes(SCHEMA):
        assert set(node) <= KEYWORDS, path
        if node.get("x-kubernetes-int-or-string"):
            assert "type" not in node, path
            assert node["anyOf"] == [{"type": "integer"}, {"type": "string"}], path
        else:
            assert node["type"] in {"object", "array", "string", "integer", "number", "boolean"}, path
            assert "anyOf" not in node, path
        assert node.get("type") != "array" or "items" in node, path
        assert not ("properties" in node and "additionalProperties" in node), path
        assert set(node.get("required", ())) <= set(node.get("properties", ())), path


def test_rules_have_places_messages_and_bounded_values() -> None:
    known = dict(nodes(SCHEMA))
    for rule in RULES:
        assert rule.path in known, rule
        assert rule.message
        assert not rule.message.endswith("."), rule
    ruled = {rule.path for rule in RULES if rule.cel is not None}
    for path in ruled:
        node = known[path]
        bound = {"array": "maxItems", "string": "maxLength"}.get(node.get("type", ""))
        assert bound is None or bound in node, f"{path} needs {bound}, or the rule's cost is unbounded"
        if "additionalProperties" in node:
            assert "maxProperties" in node, path


def test_patterns_are_expressions() -> None:
    for _, node in nodes(SCHEMA):
        if "pattern" in node:
            re.compile(node["pattern"])


@pytest.mark.parametrize("document", GOOD)
def test_schema_and_types_give_the_same_defaults(document: dict[str, Any]) -> None:
    stored = filled(document, SCHEMA)
    assert parse_model_deployment(stored) == parse_model_deployment(document)


def test_defaults_below_a_parent_that_is_not_given_are_filled_in() -> None:
    spec = filled(manifest(), SCHEMA)["spec"]
    assert spec["limits"]["concurrentRequests"] == 16
    assert spec["cache"] == {
        "size": "auto",
        "accessMode": "ReadWriteOnce",
        "perReplica": False,
        "retain": "Delete",
        "prefetch": False,
    }
    assert "autoscaling" not in spec


def test_columns_names_and_subresources() -> None:
    names = crd.definition()["spec"]["names"]
    assert (names["plural"], names["shortNames"], names["categories"]) == ("modeldeployments", ["mdep"], ["all", "ai"])
    columns = [column["name"] for column in VERSION["additionalPrinterColumns"] if not column.get("priority")]
    assert columns == ["Model", "Family", "Quant", "Ready", "Replicas", "Phase", "Age"]
    assert VERSION["subresources"] == {
        "status": {},
        "scale": {
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        },
    }


def test_conditions_are_a_map_by_type() -> None:
    conditions = SCHEMA["properties"]["status"]["properties"]["conditions"]
    assert conditions["x-kubernetes-list-type"] == "map"
    assert conditions["x-kubernetes-list-map-keys"] == ["type"]
    assert "default" not in conditions["items"]["properties"]["type"]
