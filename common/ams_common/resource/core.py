"""The few types of Kubernetes' core/v1 that a ModelDeployment passes on to its pods."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from ams_common.resource.core_schemas import ENV_VAR_SOURCE, POD_RESOURCE_CLAIM

Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Quantity = Annotated[str, Meta(max_length=32)] | int
ShortText = Annotated[str, Meta(max_length=253)]
LabelValue = Annotated[str, Meta(max_length=63)]
LongText = Annotated[str, Meta(max_length=32768)]


class ObjectMeta(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What is read of an object's metadata; the rest of ObjectMeta's fields is allowed and ignored."""

    name: str
    namespace: str = "default"
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}

    @property
    def key(self) -> str:
        """`namespace/name`: how objects of one kind are told apart."""
        return f"{self.namespace}/{self.name}"


class LocalObjectReference(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    name: ShortText


class ResourceRequirements(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """As core/v1's: what a pod may use at most, and what the scheduler keeps for it."""

    limits: Annotated[
        dict[ShortText, Quantity],
        Meta(max_length=32, description="most that a pod may use; GPUs are named here, as in nvidia.com/gpu: 1"),
    ] = {}
    requests: Annotated[dict[ShortText, Quantity], Meta(max_length=32, description="what is kept for a pod")] = {}
    claims: Annotated[
        list[Annotated[dict[str, Any], Meta(extra_json_schema=POD_RESOURCE_CLAIM)]],
        Meta(max_length=32, description="dynamic resources, as in core/v1"),
    ] = []


class Toleration(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    key: ShortText | None = None
    operator: Literal["Exists", "Equal"] | None = None
    value: ShortText | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    toleration_seconds: int | None = None


class EnvVar(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """As core/v1's; `value_from` is passed on as it is."""

    name: Annotated[str, Meta(min_length=1, max_length=253)]
    value: LongText | None = None
    value_from: Annotated[dict[str, Any], Meta(extra_json_schema=ENV_VAR_SOURCE)] | None = None
