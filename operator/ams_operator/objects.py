"""What the operator reads of Kubernetes objects, and nothing else of them; and its labels and annotations."""

from typing import Any

import msgspec
from ams_common.names import API_VERSION, KIND, PLURAL
from ams_common.resource.spec import ModelDeployment
from ams_kube.kinds import Kind

MANAGER = "ams-operator"

LABEL_MODEL = "aimodelserver.io/model"
LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
SELECTOR = f"{LABEL_MANAGED_BY}={MANAGER}"

ANNOTATION_APPLIED = "aimodelserver.io/applied"  # hash of the object as it was last applied
ANNOTATION_OWNER = "aimodelserver.io/retained-by"  # on a volume without an owner: the resource that may use it
ANNOTATION_WEIGHTS = "aimodelserver.io/weights"  # on a volume: digest of the source whose weights are on it, verified
ANNOTATION_LOCK = "aimodelserver.io/lock"  # on a volume: the lock of these weights, as status.lock
ANNOTATION_PREFETCH = "aimodelserver.io/prefetch"  # on a Deployment whose pod only fetches the weights


class _Frozen(msgspec.Struct, frozen=True, kw_only=True, rename="camel", gc=False):
    pass


class OwnerReference(_Frozen, frozen=True):
    uid: str
    kind: str = ""
    name: str = ""
    controller: bool = False


class Metadata(_Frozen, frozen=True):
    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str = ""
    deletion_timestamp: str | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    owner_references: list[OwnerReference] = []

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def model(self) -> str:
        """Key of the ModelDeployment that the object's label names."""
        return f"{self.namespace}/{self.labels.get(LABEL_MODEL, '')}"

    @property
    def controller(self) -> OwnerReference | None:
        return next((owner for owner in self.owner_references if owner.controller), None)


class StatusCondition(_Frozen, frozen=True):
    type: str
    status: str
    reason: str = ""
    message: str = ""


class Bare(_Frozen, frozen=True):
    """An object of which only the metadata matters: Service, ServiceAccount."""

    metadata: Metadata


class DeploymentSpec(_Frozen, frozen=True):
    replicas: int = 1


class DeploymentStatus(_Frozen, frozen=True):
    observed_generation: int = 0
    replicas: int = 0
    updated_replicas: int = 0
    ready_replicas: int = 0
    available_replicas: int = 0
    conditions: list[StatusCondition] = []


class Deployment(_Frozen, frozen=True):
    metadata: Metadata
    spec: DeploymentSpec = DeploymentSpec()
    status: DeploymentStatus = DeploymentStatus()


class ClaimResources(_Frozen, frozen=True):
    requests: dict[str, str | int] = {}


class ClaimSpec(_Frozen, frozen=True):
    resources: ClaimResources = ClaimResources()
    storage_class_name: str = ""


class ClaimStatus(_Frozen, frozen=True):
    phase: str = ""
    conditions: list[StatusCondition] = []


class Claim(_Frozen, frozen=True):
    metadata: Metadata
    spec: ClaimSpec = ClaimSpec()
    status: ClaimStatus = ClaimStatus()


class Waiting(_Frozen, frozen=True):
    reason: str = ""
    message: str = ""


class Running(_Frozen, frozen=True):
    """That it is there says all."""


class Terminated(_Frozen, frozen=True):
    exit_code: int = 0
    signal: int = 0
    reason: str = ""
    message: str = ""


class ContainerState(_Frozen, frozen=True):
    waiting: Waiting | None = None
    running: Running | None = None
    terminated: Terminated | None = None


class ContainerStatus(_Frozen, frozen=True):
    name: str
    ready: bool = False
    restart_count: int = 0
    image: str = ""
    state: ContainerState = ContainerState()
    last_state: ContainerState = ContainerState()


class PodSpec(_Frozen, frozen=True):
    node_name: str = ""


class PodStatus(_Frozen, frozen=True):
    phase: str = ""
    reason: str = ""
    message: str = ""
    pod_i_p: str = msgspec.field(default="", name="podIP")
    conditions: list[StatusCondition] = []
    init_container_statuses: list[ContainerStatus] = []
    container_statuses: list[ContainerStatus] = []


class Pod(_Frozen, frozen=True):
    metadata: Metadata
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    @property
    def address(self) -> str:
        """How its IP is written in a URL."""
        address = self.status.pod_i_p
        return f"[{address}]" if ":" in address else address


class LeaseSpec(msgspec.Struct, kw_only=True, rename="camel", omit_defaults=True):
    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int | None = None


class Lease(_Frozen, frozen=True):
    metadata: Metadata
    spec: LeaseSpec = msgspec.field(default_factory=LeaseSpec)


class Endpoint(_Frozen, frozen=True):
    addresses: list[str] = []


class Port(_Frozen, frozen=True):
    port: int | None = None


class EndpointSlice(_Frozen, frozen=True):
    metadata: Metadata
    endpoints: list[Endpoint] | None = None
    ports: list[Port] | None = None


class Head(_Frozen, frozen=True):
    metadata: Metadata


class Nothing(msgspec.Struct):
    """An answer of which nothing is read."""


MODELS: Kind[ModelDeployment] = Kind(API_VERSION, KIND, PLURAL, ModelDeployment)
MODEL_HEADS: Kind[Head] = Kind(API_VERSION, KIND, PLURAL, Head)
DEPLOYMENTS = Kind("apps/v1", "Deployment", "deployments", Deployment)
SERVICES = Kind("v1", "Service", "services", Bare)
ACCOUNTS = Kind("v1", "ServiceAccount", "serviceaccounts", Bare)
CLAIMS = Kind("v1", "PersistentVolumeClaim", "persistentvolumeclaims", Claim)
PODS = Kind("v1", "Pod", "pods", Pod)
LEASES = Kind("coordination.k8s.io/v1", "Lease", "leases", Lease)
EVENTS = Kind("v1", "Event", "events", Bare)
SLICES = Kind("discovery.k8s.io/v1", "EndpointSlice", "endpointslices", EndpointSlice)

Child = Deployment | Bare | Claim
CHILDREN: dict[str, Kind[Any]] = {kind.name: kind for kind in (ACCOUNTS, SERVICES, CLAIMS, DEPLOYMENTS)}
