"""Which fields of an object a field manager owns, by `metadata.managedFields` of server-side apply.

The API server notes for each manager the fields that it applied, and takes a field away from it when somebody else
changes or removes it. So an object is still as a manager applied it if the manager owns all that it applies.
https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from ams_common.outside import InvalidJson, read_json


class ManagedFields(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An entry of meta/v1's managedFields."""

    manager: str = ""
    operation: str = ""
    subresource: str = ""
    fields: msgspec.Raw = msgspec.field(default=msgspec.Raw(b"{}"), name="fieldsV1")


def entry_of(entries: Sequence[ManagedFields], manager: str) -> ManagedFields | None:
    """What a manager applied, without subresources; a copy, that keeps nothing else in memory."""
    for entry in entries:
        if (entry.manager, entry.operation, entry.subresource) == (manager, "Apply", ""):
            return msgspec.structs.replace(entry, fields=entry.fields.copy())
    return None


def owns_all(entry: ManagedFields, body: Mapping[str, Any]) -> bool:
    """Whether the entry's manager owns every field of `body`, an object as it is applied."""
    try:
        fields = read_json(entry.fields, dict[str, Any])
    except InvalidJson:
        return False
    metadata = {key: value for key, value in body.get("metadata", {}).items() if key in _METADATA}
    rest = {key: value for key, value in body.items() if key not in ("apiVersion", "kind", "metadata")}
    return _owns(fields, {**rest, "metadata": metadata} if metadata else rest)


_METADATA = ("labels", "annotations", "ownerReferences")


def _owns(fields: Any, value: Any) -> bool:
    """`fields` is a node of FieldsV1: `f:` names a field, `k:` and `v:` an item of a list; a whole's is empty."""
    if not fields or not isinstance(fields, dict):
        return True
    if isinstance(value, Mapping):
        return all(
            f"f:{key}" in fields and _owns(fields[f"f:{key}"], inner)
            for key, inner in value.items()
            if inner is not None
        )
    if isinstance(value, list | tuple):
        return all(_owns_item(fields, item) for item in value)
    return True


def _owns_item(fields: dict[str, Any], item: Any) -> bool:
    if not isinstance(item, Mapping):
        return f"v:{json.dumps(item)}" in fields
    for name, inner in fields.items():
        if name.startswith("k:") and _is_key_of(name[2:], item):
            return _owns(inner, item)
    return False


def _is_key_of(key: str, item: Mapping[str, Any]) -> bool:
    """Whether an associative list's key names the item; what the item leaves out of it has the key's default."""
    try:
        parts = read_json(key, dict[str, Any])
    except InvalidJson:
        return False
    return all(item.get(name, value) == value for name, value in parts.items())
