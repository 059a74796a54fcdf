"""What an explanation is made from, and what it is: the body of `GET /admin/why` and of components' own answers."""

from typing import Annotated

import msgspec
from msgspec import Meta

from ams_common.lifecycle import Phase
from ams_common.progress import Download, Load, Progress
from ams_common.timeline import Facts, Timeline

MOST_TIMELINES = 50
DECISIONS_PATH = "/internal/decisions"
MOST_BYTES = 4 << 20  # of one component's answer

_Text = Annotated[str, Meta(max_length=2000)]


class PodTimelines(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /internal/timelines` of a model pod: of one request, or those that were slow or failed lately.

    `reaches_back_to` is the Unix time of the oldest that is kept, null while none was forgotten. `machine` is what kept
    the pod from computing in the last minute.
    """

    model: Annotated[str, Meta(max_length=300)] = ""
    timelines: Annotated[list[Timeline], Meta(max_length=MOST_TIMELINES)] = []
    reaches_back_to: float | None = None
    progress: Progress | None = None
    load: Load | None = None
    machine: Annotated[dict[str, str | int | float | bool], Meta(max_length=40)] = {}


class PodAccount(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A pod as the gateway knows it, with what it tells itself."""

    pod: Annotated[str, Meta(description="Id of the pod.")]
    in_flight: Annotated[int, Meta(description="Requests of this gateway at the pod.")] = 0
    failures: Annotated[int, Meta(description="Connections that failed in a row.")] = 0
    ejected_seconds: Annotated[float, Meta(description="For how long it is still left out for its failures.")] = 0.0
    silent: Annotated[str, Meta(description="Why its own records aren't here; empty where they are.")] = ""
    running: Annotated[int | None, Meta(description="Requests in its batch, of all gateways.")] = None
    queued: Annotated[int | None, Meta(description="Requests that wait for a place in it.")] = None
    places: Annotated[int | None, Meta(description="Requests that fit into the batch.")] = None
    queue_places: Annotated[int | None, Meta(description="Requests that may wait.")] = None
    machine: Annotated[Facts, Meta(description="What kept it from computing in the last minute.")] = {}


class NodeAccount(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A node of the cluster and why a pod can't run there."""

    node: Annotated[str, Meta(description="Name of the node.")]
    lacks: Annotated[list[str], Meta(description="What is missing there, in words.")] = []


class Decision(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that the operator decided about a model."""

    time: Annotated[float, Meta(description="Unix time of the last of its kind, in seconds.")]
    kind: Annotated[str, Meta(max_length=64, description="`scale`, `status`, `apply`, or `failed`.")]
    sentence: Annotated[str, Meta(max_length=2000, description="What was decided, and from what.")]
    count: Annotated[int, Meta(description="How often it was decided in a row.")] = 1
    facts: Annotated[
        dict[str, str | int | float | bool], Meta(max_length=40, description="What it was decided from.")
    ] = {}


class OperatorDecisions(msgspec.Struct, frozen=True):
    """`GET /internal/decisions?model=NAMESPACE/NAME` of the operator, the newest first."""

    model: str
    leads: bool = True
    decisions: Annotated[list[Decision], Meta(max_length=200)] = []


class ModelAccount(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A model as its registry, or its resource, knows it."""

    name: Annotated[str, Meta(description="Name of the model.")]
    phase: Annotated[Phase, Meta(description="How far it is.")] = Phase.PENDING
    percent: Annotated[float | None, Meta(description="How far this phase is, 0 to 100.")] = None
    eta_seconds: Annotated[float | None, Meta(description="Seconds until this phase ends.")] = None
    download: Annotated[Download | None, Meta(description="Progress of the download, while there is one.")] = None
    reason: Annotated[str, Meta(description="What is in its way, as docs/troubleshooting.md lists reasons.")] = ""
    message: Annotated[str, Meta(description="A sentence about it.")] = ""
    replicas: Annotated[int, Meta(description="Pods that should run.")] = 0
    ready_replicas: Annotated[int, Meta(description="Pods that take requests.")] = 0
    pods: Annotated[list[PodAccount], Meta(description="Its pods.")] = []
    nodes: Annotated[list[NodeAccount], Meta(description="Nodes that don't take a pod of it.")] = []
    decisions: Annotated[list[Decision], Meta(description="What the operator decided, the newest first.")] = []
    events: Annotated[list[str], Meta(description="Events of its objects that are warnings, the newest first.")] = []


class Cause(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One cause. `seconds` and `share` (0 to 1) are its part of the request's time; null where that can't be said."""

    code: Annotated[str, Meta(description="What it is, as docs/why.md and docs/troubleshooting.md list them.")]
    sentence: Annotated[str, Meta(description="A sentence for a person.")]
    seconds: Annotated[float | None, Meta(description="Its part of the time, in seconds.")] = None
    share: Annotated[float | None, Meta(description="The same as a part of 1.")] = None
    evidence: Annotated[list[str], Meta(description="What was recorded that tells so.")] = []
    help: Annotated[str, Meta(description="What can be done about it.")] = ""


class Why(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The body of `GET /admin/why`."""

    about: Annotated[str, Meta(description="`request`, `model`, or `models` for all of them.")]
    name: Annotated[str, Meta(description="Id of the request, or name of the model.")]
    sentence: Annotated[str, Meta(description="The first cause in one sentence.")]
    causes: Annotated[list[Cause], Meta(description="What it was, the weightiest first.")]
    timelines: Annotated[list[Timeline], Meta(description="What gateway and pods recorded.")] = []
    model: Annotated[ModelAccount | None, Meta(description="What is known of the model now.")] = None
    notes: Annotated[list[str], Meta(description="What couldn't be asked, and how far back records go.")] = []
