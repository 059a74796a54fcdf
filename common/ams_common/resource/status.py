"""What the operator writes into a ModelDeployment: conditions for programs, words for people."""

from typing import Annotated

import msgspec
from msgspec import Meta

from ams_common.progress import Download
from ams_common.resource.conditions import ConditionStatus


class Condition(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """As meta/v1's Condition. `type` and `reason` are words of `ams_common.resource.conditions`."""

    type: Annotated[str, Meta(max_length=316)]
    status: ConditionStatus
    reason: Annotated[str, Meta(max_length=1024)]
    message: Annotated[str, Meta(max_length=32768)]
    last_transition_time: Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
    observed_generation: int = 0


class ModelStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What was found out about the model."""

    name: Annotated[str | None, Meta(description="its repository or file, the column of kubectl get")] = None
    revision: Annotated[str | None, Meta(description="commit that is served")] = None
    family: str | None = None
    modalities: list[str] | None = None
    architecture: str | None = None
    parameters: Annotated[str | None, Meta(description="number of parameters for people, as in 3.75B")] = None
    weights_bytes: int | None = None
    context_tokens: int | None = None


class QuantizationStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    chosen: str | None = None
    reason: Annotated[str | None, Meta(description="why, with the numbers")] = None


class EngineStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What computes."""

    name: str | None = None
    reason: Annotated[str | None, Meta(description="why this one")] = None
    version: Annotated[
        str | None,
        Meta(
            description="its version, as the newest pod told it: this product's of builtin; none without a pod, and of"
            " an engine that tells none"
        ),
    ] = None


class LockStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The lock of the weights that are served."""

    files: int | None = None
    sha256: Annotated[str | None, Meta(description="of the sorted list of files and their sha256")] = None
    config_map: Annotated[str | None, Meta(description="ConfigMap that holds the list")] = None


class AdapterStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What became of one of spec.adapters, of those that pods load while they run."""

    name: Annotated[str, Meta(description="as in spec.adapters")]
    state: Annotated[str, Meta(description="Ready, Loading or Failed")]
    ready_replicas: Annotated[int, Meta(description="pods that serve it as it is asked for")] = 0
    reason: Annotated[str | None, Meta(description="why it failed, in one word")] = None
    message: Annotated[str | None, Meta(description="why it isn't ready")] = None
    lock: Annotated[LockStatus | None, Meta(description="the lock of its files, where they were downloaded")] = None


class Status(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    observed_generation: int | None = None
    phase: Annotated[str | None, Meta(description="for people; programs read conditions")] = None
    summary: Annotated[str | None, Meta(description="phase with progress, the column of kubectl get")] = None
    message: str | None = None
    replicas: int | None = None
    ready_replicas: int | None = None
    selector: Annotated[str | None, Meta(description="selects the pods; the scale subresource reads it")] = None
    endpoint: Annotated[str | None, Meta(description="URL that answers for the model")] = None
    model: ModelStatus | None = None
    engine: EngineStatus | None = None
    quantization: QuantizationStatus | None = None
    download: Download | None = None
    lock: LockStatus | None = None
    adapters: Annotated[
        list[AdapterStatus] | None,
        Meta(
            description="what became of spec.adapters, where pods load them while they run",
            extra_json_schema={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        ),
    ] = None
    conditions: Annotated[
        list[Condition] | None,
        Meta(extra_json_schema={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}),
    ] = None


def conditions_of(status: Status | None) -> dict[str, Condition]:
    """By type; empty while there is no status."""
    return {condition.type: condition for condition in (status.conditions or ())} if status is not None else {}
