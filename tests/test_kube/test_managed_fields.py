"""Whether a manager still owns what it applied, by what API servers note."""

from typing import Any

import msgspec
import pytest
from ams_kube.managed_fields import ManagedFields, entry_of, owns_all

BODY = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "x", "namespace": "n", "labels": {"a": "1"}, "ownerReferences": [{"uid": "u", "kind": "K"}]},
    "spec": {
        "replicas": 1,
        "selector": {"matchLabels": {"a": "1"}},
        "template": {
            "spec": {
                "nodeSelector": None,
                "containers": [
                    {"name": "serve", "image": "i", "ports": [{"containerPort": 1}], "command": ["a", "b"]},
                ],
                "volumes": [{"name": "tmp", "emptyDir": {}}],
            }
        },
        "finalizers": ["a"],
    },
}
PORT = 'k:{"containerPort":1,"protocol":"TCP"}'
FIELDS: dict[str, Any] = {
    "f:metadata": {
        "f:labels": {".": {}, "f:a": {}},
        "f:ownerReferences": {'k:{"uid":"u"}': {".": {}, "f:kind": {}, "f:uid": {}}},
    },
    "f:spec": {
        "f:replicas": {},
        "f:selector": {},  # is one whole
        "f:template": {
            "f:spec": {
                "f:containers": {
                    'k:{"name":"serve"}': {
                        ".": {},
                        "f:name": {},
                        "f:image": {},
                        "f:command": {},
                        "f:ports": {PORT: {".": {}, "f:containerPort": {}}},
                    }
                },
                "f:volumes": {'k:{"name":"tmp"}': {".": {}, "f:name": {}, "f:emptyDir": {}}},
            }
        },
        "f:finalizers": {'v:"a"': {}},
    },
}


def entry(fields: Any) -> ManagedFields:
    return ManagedFields(manager="m", operation="Apply", fields=msgspec.Raw(msgspec.json.encode(fields)))


def without(*path: str) -> dict[str, Any]:
    """FIELDS after somebody else has changed the field at `path`. API servers write no empty sets of fields."""
    fields: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(FIELDS))
    parents = [fields]
    for key in path[:-1]:
        parents.append(parents[-1][key])
    for parent, key in zip(reversed(parents), reversed(path), strict=True):
        del parent[key]
        if parent:
            break
    return fields


def test_what_is_as_it_was_applied_is_owned() -> None:
    assert owns_all(entry(FIELDS), BODY)


CONTAINER = ("f:spec", "f:template", "f:spec", "f:containers", 'k:{"name":"serve"}')


@pytest.mark.parametrize(
    "path",
    [
        ("f:metadata", "f:labels", "f:a"),
        ("f:metadata", "f:ownerReferences", 'k:{"uid":"u"}'),
        ("f:spec", "f:replicas"),
        ("f:spec", "f:selector"),
        ("f:spec", "f:finalizers", 'v:"a"'),
        CONTAINER,
        (*CONTAINER, "f:image"),
        (*CONTAINER, "f:command"),
        (*CONTAINER, "f:ports", PORT, "f:containerPort"),
        ("f:spec", "f:template", "f:spec", "f:volumes", 'k:{"name":"tmp"}', "f:emptyDir"),
    ],
)
def test_what_somebody_changed_is_not(path: tuple[str, ...]) -> None:
    assert not owns_all(entry(without(*path)), BODY)


@pytest.mark.parametrize("fields", [[], "x", {"f:spec": 7}, {"f:metadata": {"f:labels": []}}])
def test_what_no_api_server_notes_is_no_crash(fields: Any) -> None:
    assert owns_all(entry(fields), BODY) in (True, False)


def test_only_what_was_applied_counts_and_others_are_dropped() -> None:
    theirs = [
        ManagedFields(manager="kubectl", operation="Update"),
        ManagedFields(manager="m", operation="Update"),
        ManagedFields(manager="m", operation="Apply", subresource="status"),
    ]
    assert entry_of(theirs, "m") is None
    assert entry_of([*theirs, entry(FIELDS)], "m") == entry(FIELDS)
