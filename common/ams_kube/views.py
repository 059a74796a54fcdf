"""A ModelDeployment as gateway and command line read it, and nothing else of it.

The types of the contract refuse what the CRD doesn't allow. Here every field has a default and takes any value of its
JSON type: a resource that is wrong in some place, or was written by a newer version, must not lose its requests.
"""

from typing import Any

import msgspec
from ams_common.names import API_VERSION, KIND, PLURAL
from ams_common.progress import Download
from ams_common.resource.status import EngineStatus, ModelStatus, QuantizationStatus

from ams_kube.kinds import Kind
from ams_kube.objects import Metadata, StatusCondition


class SourceView(msgspec.Struct, frozen=True, kw_only=True):
    """`spec.model`."""

    source: str = ""
    aliases: list[str] = []


class AdapterView(msgspec.Struct, frozen=True, kw_only=True):
    """One of `spec.adapters`."""

    name: str = ""


class LimitsView(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`spec.limits`."""

    request_timeout_seconds: float = 600.0
    max_body_bytes: int | str = "64Mi"
    context_tokens: int | str = "auto"
    max_new_tokens: int | str = "auto"


class AnswersView(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`spec.cache.answers`."""

    seconds: float = 3600.0
    bytes: int | str = "64Mi"


class CacheView(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`spec.cache`."""

    answers: AnswersView | None = None


class SpecView(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    model: SourceView = SourceView()
    adapters: list[AdapterView] = []
    limits: LimitsView = LimitsView()
    cache: CacheView = CacheView()
    quantization: str = "auto"
    max_memory: dict[str, int | str] = {}
    replicas: int = 1
    autoscaling: Any = None
    suspend: bool = False

    @property
    def at_rest(self) -> str | None:
        """Why no request starts the model; None if one does, or pods are asked for anyway."""
        if self.suspend:
            return "suspended"
        stopped = self.replicas == 0 and self.autoscaling is None
        return "stopped by spec.replicas: 0" if stopped else None


class AdapterStatusView(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One of `status.adapters`."""

    name: str = ""
    state: str = ""
    ready_replicas: int = 0
    reason: str | None = None
    message: str | None = None


class StatusView(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    observed_generation: int = 0
    phase: str = ""
    summary: str = ""
    message: str = ""
    endpoint: str = ""
    replicas: int = 0
    ready_replicas: int = 0
    model: ModelStatus = ModelStatus()
    engine: EngineStatus = EngineStatus()
    quantization: QuantizationStatus = QuantizationStatus()
    download: Download | None = None
    adapters: list[AdapterStatusView] = []
    conditions: list[StatusCondition] = []


class ResourceView(msgspec.Struct, frozen=True, kw_only=True):
    """A ModelDeployment."""

    metadata: Metadata
    spec: SpecView = SpecView()
    status: StatusView = StatusView()


RESOURCES = Kind(API_VERSION, KIND, PLURAL, ResourceView)
