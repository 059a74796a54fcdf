"""Kubernetes objects as our programs read them: the fields that somebody uses, and the API path of each kind.

An answer's other fields are skipped while it is decoded, which is what keeps thousands of objects cheap. Most fields
have a default, as the API server leaves out what is empty.
"""

from base64 import b64decode

import msgspec
from ams_common.names import API_VERSION, KIND, PLURAL
from ams_common.resource.core import ObjectMeta
from ams_common.resource.spec import ModelDeployment

from ams_kube.kinds import Kind
from ams_kube.managed_fields import ManagedFields


class _Part(msgspec.Struct, frozen=True, kw_only=True, rename="camel", gc=False):
    pass


class ObjectVersion(_Part, frozen=True):
    """The part of ObjectMeta that tells one version of an object from another."""

    name: str = ""
    namespace: str = ""
    resource_version: str = ""


class VersionOnly(_Part, frozen=True):
    """An object of which nothing but its version is read."""

    metadata: ObjectVersion = ObjectVersion()


class OwnerReference(_Part, frozen=True):
    uid: str
    kind: str = ""
    name: str = ""
    controller: bool = False


class Metadata(ObjectMeta, frozen=True, kw_only=True, gc=False):
    """ObjectMeta of an object in the cluster. `namespace` is empty where the kind has none, as a Node's."""

    name: str = ""
    namespace: str = ""
    owner_references: list[OwnerReference] = msgspec.field(default_factory=list)

    @property
    def controller(self) -> OwnerReference | None:
        """The owner whose controller looks after the object."""
        return next((owner for owner in self.owner_references if owner.controller), None)


class AppliedMetadata(Metadata, frozen=True, kw_only=True, gc=False):
    """Of an object that we apply. Its fields keep the whole answer in memory that they were read from: copy them."""

    managed_fields: list[ManagedFields] = msgspec.field(default_factory=list)


class MetadataOnly(_Part, frozen=True):
    """An object of which nothing but the metadata is read."""

    metadata: Metadata = Metadata()


class AppliedOnly(_Part, frozen=True):
    """An object that we apply, of which nothing but the metadata is read."""

    metadata: AppliedMetadata = AppliedMetadata()


class StatusCondition(_Part, frozen=True):
    type: str
    status: str
    reason: str = ""
    message: str = ""
    last_transition_time: str | None = None


# apps/v1


class Container(_Part, frozen=True):
    name: str = ""
    image: str = ""


class TemplateSpec(_Part, frozen=True):
    containers: list[Container] = []


class PodTemplate(_Part, frozen=True):
    spec: TemplateSpec = TemplateSpec()


class DeploymentSpec(_Part, frozen=True):
    replicas: int = 1
    template: PodTemplate = PodTemplate()


class DeploymentStatus(_Part, frozen=True):
    observed_generation: int = 0
    replicas: int = 0
    updated_replicas: int = 0
    ready_replicas: int = 0
    available_replicas: int = 0
    conditions: list[StatusCondition] = []


class Deployment(_Part, frozen=True):
    metadata: AppliedMetadata
    spec: DeploymentSpec = DeploymentSpec()
    status: DeploymentStatus = DeploymentStatus()


# leaderworkerset.x-k8s.io/v1: groups of pods, each of which is one replica


class GroupTemplate(_Part, frozen=True):
    leader_template: PodTemplate = PodTemplate()


class LeaderWorkerSetSpec(_Part, frozen=True):
    replicas: int = 1
    leader_worker_template: GroupTemplate = GroupTemplate()


class LeaderWorkerSetStatus(_Part, frozen=True):
    """Counts of groups. Versions before v0.9 tell no generation."""

    observed_generation: int | None = None
    replicas: int = 0
    updated_replicas: int = 0
    ready_replicas: int = 0


class LeaderWorkerSet(_Part, frozen=True):
    metadata: AppliedMetadata
    spec: LeaderWorkerSetSpec = LeaderWorkerSetSpec()
    status: LeaderWorkerSetStatus = LeaderWorkerSetStatus()


# v1: volumes


class ClaimResources(_Part, frozen=True):
    requests: dict[str, str | int] = {}


class ClaimSpec(_Part, frozen=True):
    resources: ClaimResources = ClaimResources()
    storage_class_name: str = ""


class ClaimStatus(_Part, frozen=True):
    phase: str = ""
    conditions: list[StatusCondition] = []


class Claim(_Part, frozen=True):
    """A PersistentVolumeClaim."""

    metadata: AppliedMetadata
    spec: ClaimSpec = ClaimSpec()
    status: ClaimStatus = ClaimStatus()


# v1: pods


class WaitingState(_Part, frozen=True):
    reason: str = ""
    message: str = ""


class RunningState(_Part, frozen=True):
    started_at: str | None = None


class TerminatedState(_Part, frozen=True):
    exit_code: int = 0
    signal: int = 0
    reason: str = ""
    message: str = ""
    started_at: str | None = None
    finished_at: str | None = None


class ContainerState(_Part, frozen=True):
    """One of the three is set."""

    waiting: WaitingState | None = None
    running: RunningState | None = None
    terminated: TerminatedState | None = None


class ContainerStatus(_Part, frozen=True):
    name: str
    ready: bool = False
    restart_count: int = 0
    image: str = ""
    state: ContainerState = ContainerState()
    last_state: ContainerState = ContainerState()


class PodSpec(_Part, frozen=True):
    node_name: str = ""


class PodStatus(_Part, frozen=True):
    phase: str = ""
    reason: str = ""
    message: str = ""
    pod_ip: str = msgspec.field(default="", name="podIP")
    conditions: list[StatusCondition] = []
    init_container_statuses: list[ContainerStatus] = []
    container_statuses: list[ContainerStatus] = []


class Pod(_Part, frozen=True):
    metadata: Metadata
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    @property
    def address(self) -> str:
        """Its IP as a URL's host; empty until it has one."""
        address = self.status.pod_ip
        return f"[{address}]" if ":" in address else address

    def condition(self, kind: str) -> StatusCondition | None:
        return next((each for each in self.status.conditions if each.type == kind), None)


# v1: nodes


class Taint(_Part, frozen=True):
    key: str
    value: str = ""
    effect: str = ""


class NodeMetadata(_Part, frozen=True):
    """Without annotations, of which nodes have many."""

    name: str = ""
    namespace: str = ""
    labels: dict[str, str] = {}


class NodeSpec(_Part, frozen=True):
    unschedulable: bool = False
    taints: list[Taint] = []


class NodeStatus(_Part, frozen=True):
    allocatable: dict[str, str] = {}


class Node(_Part, frozen=True):
    metadata: NodeMetadata
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()


# Services and where they lead


class ServicePort(_Part, frozen=True):
    app_protocol: str = ""


class ServiceSpec(_Part, frozen=True):
    cluster_ip: str = msgspec.field(default="", name="clusterIP")
    ports: list[ServicePort] = []


class Service(_Part, frozen=True):
    metadata: AppliedMetadata
    spec: ServiceSpec = ServiceSpec()


class TargetRef(_Part, frozen=True):
    name: str = ""
    uid: str = ""


class EndpointConditions(_Part, frozen=True):
    """Absent means true for `ready`, false for `terminating`."""

    ready: bool | None = None
    terminating: bool | None = None


class Endpoint(_Part, frozen=True):
    addresses: list[str] = []
    conditions: EndpointConditions = EndpointConditions()
    target_ref: TargetRef | None = None


class EndpointPort(_Part, frozen=True):
    port: int | None = None


class EndpointSlice(_Part, frozen=True):
    metadata: Metadata
    endpoints: list[Endpoint] | None = None
    ports: list[EndpointPort] | None = None


# v1: events


class InvolvedObject(_Part, frozen=True):
    kind: str = ""
    name: str = ""


class EventNote(_Part, frozen=True):
    """An Event, as far as people read it."""

    metadata: Metadata = Metadata()
    involved_object: InvolvedObject = InvolvedObject()
    reason: str = ""
    message: str = ""
    last_timestamp: str | None = None
    event_time: str | None = None


# coordination.k8s.io/v1


class LeaseSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int | None = None


class Lease(_Part, frozen=True):
    metadata: Metadata
    spec: LeaseSpec = LeaseSpec()


# v1: secrets


class SecretObject(_Part, frozen=True):
    """A Secret, whose values are read by name only."""

    metadata: Metadata
    data: dict[str, str] | None = None

    def entry(self, name: str) -> bytes | None:
        """The bytes of an entry; None if there is none."""
        text = (self.data or {}).get(name)
        try:
            return None if text is None else b64decode(text)
        except ValueError:
            return None  # an API server lets no such Secret pass

    def __repr__(self) -> str:
        return f"SecretObject({self.metadata.key})"


MODELS: Kind[ModelDeployment] = Kind(API_VERSION, KIND, PLURAL, ModelDeployment)
MODELS_METADATA: Kind[MetadataOnly] = Kind(API_VERSION, KIND, PLURAL, MetadataOnly)
REPLICA_SETS: Kind[MetadataOnly] = Kind("apps/v1", "ReplicaSet", "replicasets", MetadataOnly)
STATEFUL_SETS: Kind[MetadataOnly] = Kind("apps/v1", "StatefulSet", "statefulsets", MetadataOnly)
DEPLOYMENTS: Kind[Deployment] = Kind("apps/v1", "Deployment", "deployments", Deployment)
LEADER_WORKER_SETS: Kind[LeaderWorkerSet] = Kind(
    "leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet", "leaderworkersets", LeaderWorkerSet
)
SERVICES: Kind[Service] = Kind("v1", "Service", "services", Service)
SERVICE_ACCOUNTS: Kind[AppliedOnly] = Kind("v1", "ServiceAccount", "serviceaccounts", AppliedOnly)
NETWORK_POLICIES: Kind[AppliedOnly] = Kind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies", AppliedOnly)
CONFIG_MAPS: Kind[AppliedOnly] = Kind("v1", "ConfigMap", "configmaps", AppliedOnly)
CLAIMS: Kind[Claim] = Kind("v1", "PersistentVolumeClaim", "persistentvolumeclaims", Claim)
PODS: Kind[Pod] = Kind("v1", "Pod", "pods", Pod)
NODES: Kind[Node] = Kind("v1", "Node", "nodes", Node)
SECRETS: Kind[SecretObject] = Kind("v1", "Secret", "secrets", SecretObject)
EVENTS: Kind[MetadataOnly] = Kind("v1", "Event", "events", MetadataOnly)
EVENT_NOTES: Kind[EventNote] = Kind("v1", "Event", "events", EventNote)
LEASES: Kind[Lease] = Kind("coordination.k8s.io/v1", "Lease", "leases", Lease)
ENDPOINT_SLICES: Kind[EndpointSlice] = Kind("discovery.k8s.io/v1", "EndpointSlice", "endpointslices", EndpointSlice)
