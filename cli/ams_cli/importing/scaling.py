"""HorizontalPodAutoscalers, KEDA's ScaledObjects and AIBrix's PodAutoscalers, as replicas of what they scale."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ams_cli.importing.reading import Section
from ams_cli.importing.results import Draft

_GROUPS = {
    "HorizontalPodAutoscaler": "autoscaling", "ScaledObject": "keda.sh", "PodAutoscaler": "autoscaling.aibrix.ai",
}  # fmt: skip
_KEDA_MOST, _KEDA_COOLDOWN_SECONDS = 100, 300  # KEDA's defaults
_RUNNING = "num_requests_running"
_FOLLOW = "replicas follow the requests in flight"

Scalers = dict[tuple[str, str], list[dict[str, Any]]]
"""By kind and name of what they scale."""


def scaled_by(document: Any) -> tuple[str, str] | None:
    """Kind and name of what a document scales; None if it scales nothing."""
    if not isinstance(document, dict) or not isinstance(kind := document.get("kind"), str) or kind not in _GROUPS:
        return None
    if str(document.get("apiVersion", "")).partition("/")[0] != _GROUPS[kind]:
        return None
    spec = document.get("spec")
    target = spec.get("scaleTargetRef") if isinstance(spec, dict) else None
    if not isinstance(target, dict) or not target.get("name"):
        return None
    return str(target.get("kind") or "Deployment"), str(target["name"])


def apply(draft: Draft, kind: str, name: str, replicas: int | None, scalers: Scalers) -> None:
    """The replicas of a draft: a number, or what scales it says."""
    found = [each for each in scalers.get((kind, name), []) if _same_namespace(draft, each)]
    if not found:
        set_replicas(draft, 1 if replicas is None else replicas)
        return
    _one(draft, Section(found[0], f"{found[0].get('kind')} of {name}"))
    for other in found[1:]:
        draft.lose(f"{other.get('kind')} of {name}", "a model has one autoscaler")


def set_replicas(draft: Draft, replicas: int) -> None:
    draft.spec["replicas"] = replicas
    if replicas > 1:
        draft.set("cache.perReplica", True)


def keda(draft: Draft, spec: Section) -> None:
    """The fields of a ScaledObject's spec, which charts have too."""
    least, most, idle = spec.number("minReplicaCount"), spec.number("maxReplicaCount"), spec.number("idleReplicaCount")
    cooldown = spec.number("cooldownPeriod")
    if idle is not None:
        least = idle
    draft.spec["autoscaling"] = {
        "minReplicas": least or 0,
        "maxReplicas": max(_KEDA_MOST if most is None else most, least or 0, 1),
        "idleSeconds": _KEDA_COOLDOWN_SECONDS if cooldown is None else cooldown,
    }
    if most is None:
        draft.say(spec.at("maxReplicaCount"), f"missing, which is {_KEDA_MOST} for KEDA")
    for trigger in spec.sections("triggers"):
        _keda_trigger(draft, trigger)
    for field in ("pollingInterval", "initialCooldownPeriod", "fallback", "advanced"):
        if field in spec:
            spec.ignore(field)
            draft.lose(spec.at(field), _FOLLOW)
    _shared(draft)


def _same_namespace(draft: Draft, scaler: Mapping[str, Any]) -> bool:
    metadata = scaler.get("metadata")
    theirs = metadata.get("namespace") if isinstance(metadata, dict) else None
    ours = draft.metadata.get("namespace")
    return not theirs or not ours or theirs == ours


def _one(draft: Draft, scaler: Section) -> None:
    spec = scaler.section("spec")
    spec.ignore("scaleTargetRef")
    if scaler.text("kind") == "ScaledObject":
        keda(draft, spec)
    else:
        least, most = spec.number("minReplicas"), spec.number("maxReplicas")
        least = 1 if least is None else least
        draft.spec["autoscaling"] = {"minReplicas": least, "maxReplicas": max(most or 1, least, 1)}
        for metric in spec.sections("metrics"):
            _metric(draft, metric)
        for field in ("targetCPUUtilizationPercentage", "behavior", "metricsSources", "scalingStrategy"):
            if field in spec:
                spec.ignore(field)
                draft.lose(spec.at(field), _FOLLOW)
        _shared(draft)
    draft.lose_all(spec.left())


def _shared(draft: Draft) -> None:
    if draft.spec["autoscaling"]["maxReplicas"] > 1:
        draft.set("cache.perReplica", True)


def _metric(draft: Draft, metric: Section) -> None:
    """Of all metrics one counts what ours do: requests that run, per pod."""
    kind = metric.text("type")
    section = metric.section(kind[:1].lower() + kind[1:]) if kind else metric
    inner, target = section.section("metric"), section.section("target")
    name, value = inner.text("name") or section.text("name"), target.text("averageValue")
    if not _target(draft, f"{name} {metric.path}", value if _RUNNING in name else ""):
        draft.lose(f"{metric.path} ({name or kind})", _FOLLOW)


def _keda_trigger(draft: Draft, trigger: Section) -> None:
    metadata = trigger.section("metadata")
    named = f"{metadata.text('metricName')} {metadata.text('query')}"
    if not _target(draft, trigger.path, metadata.text("threshold") if _RUNNING in named else ""):
        draft.lose(f"{trigger.path} ({trigger.text('type')})", _FOLLOW)


def _target(draft: Draft, where: str, value: str) -> bool:
    if re.fullmatch(r"[1-9][0-9]{0,5}", value) is None:
        return False
    draft.set("autoscaling.targetConcurrency", int(value))
    draft.say(where, "requests that run in a pod: autoscaling.targetConcurrency")
    return True


def scalers_in(documents: Iterator[Any]) -> Scalers:
    """All that scale something, by what they scale."""
    found: Scalers = {}
    for document in documents:
        if (target := scaled_by(document)) is not None:
            found.setdefault(target, []).append(document)
    return found
