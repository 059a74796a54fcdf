"""Values of KubeAI's chart of models: a mapping `catalog`, also under `models`, of models by name.

An entry has the fields of a Model's spec, and `enabled`, `labels` and `annotations`; fields as in charts/models.
"""

from dataclasses import dataclass
from typing import Any, TypeGuard

_OF_THE_CHART = ("enabled", "labels", "annotations")


@dataclass(frozen=True, slots=True)
class Catalog:
    """Models that the chart would make, as documents, and how many entries are switched off."""

    models: list[dict[str, Any]]
    off: int


def catalog_in(document: Any) -> Catalog | None:
    """The catalog of the chart's values; None of any other document."""
    if not isinstance(document, dict) or document.get("kind") is not None:
        return None
    inner = document.get("models")
    values = inner if isinstance(inner, dict) and _is_catalog(inner.get("catalog")) else document
    catalog = values.get("catalog")
    if not _is_catalog(catalog):
        return None
    everything = values.get("all")
    all_on = isinstance(everything, dict) and everything.get("enabled") is True
    on = {name: entry for name, entry in catalog.items() if all_on or entry.get("enabled") is True}
    return Catalog([_model(str(name), entry) for name, entry in on.items()], len(catalog) - len(on))


def _is_catalog(value: Any) -> TypeGuard[dict[str, Any]]:
    """Whether it is a mapping of entries, and none of them has a command, as a model of llama-swap has."""
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(entry, dict) and "cmd" not in entry for entry in value.values())
        and any("engine" in entry or "enabled" in entry for entry in value.values())
    )


def _model(name: str, entry: dict[str, Any]) -> dict[str, Any]:
    about = {field: entry[field] for field in ("labels", "annotations") if field in entry}
    spec = {field: value for field, value in entry.items() if field not in _OF_THE_CHART}
    return {"apiVersion": "kubeai.org/v1", "kind": "Model", "metadata": {"name": name, **about}, "spec": spec}
