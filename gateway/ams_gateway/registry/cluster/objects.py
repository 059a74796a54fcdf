"""What the gateway reads of Kubernetes objects, and nothing else of them.

Every field has a default: an object that is broken in some place must not hide the others.
"""

import msgspec
from ams_common.progress import Download

SERVICE_LABEL = "kubernetes.io/service-name"


class Metadata(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    name: str
    namespace: str = ""
    uid: str = ""
    creation_timestamp: str = ""
    labels: dict[str, str] = {}

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"


class ModelSource(msgspec.Struct, frozen=True, kw_only=True):
    source: str = ""
    aliases: list[str] = []


class Limits(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    request_timeout_seconds: float = 600.0
    max_body_bytes: int | str = "64Mi"


class Spec(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    model: ModelSource = ModelSource()
    limits: Limits = Limits()
    quantization: str = "auto"
    max_memory: dict[str, int | str] = {}
    suspend: bool = False


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    type: str
    status: str
    reason: str = ""
    message: str = ""


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """`status.model`."""

    family: str | None = None
    modalities: list[str] | None = None


class Quantization(msgspec.Struct, frozen=True, kw_only=True):
    chosen: str | None = None


class Status(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    phase: str = ""
    message: str = ""
    replicas: int = 0
    model: Found | None = None
    quantization: Quantization | None = None
    download: Download | None = None
    conditions: list[Condition] = []


class ModelDeployment(msgspec.Struct, frozen=True, kw_only=True):
    metadata: Metadata
    spec: Spec = Spec()
    status: Status = Status()


class TargetRef(msgspec.Struct, frozen=True, kw_only=True):
    name: str = ""
    uid: str = ""


class EndpointConditions(msgspec.Struct, frozen=True, kw_only=True):
    """Absent means true for `ready`, false for `terminating`."""

    ready: bool | None = None
    terminating: bool | None = None


class Endpoint(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    addresses: list[str] = []
    conditions: EndpointConditions = EndpointConditions()
    target_ref: TargetRef | None = None


class Port(msgspec.Struct, frozen=True, kw_only=True):
    port: int | None = None


class EndpointSlice(msgspec.Struct, frozen=True, kw_only=True):
    metadata: Metadata
    endpoints: list[Endpoint] | None = None
    ports: list[Port] | None = None
