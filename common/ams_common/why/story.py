"""What an explanation is made from, and what it is: the body of `GET /admin/why` and of components' own answers."""

from typing import Annotated

import msgspec
from msgspec import Meta

from ams_common.progress import Failure, Load, Progress
from ams_common.timeline import Facts, Timeline

MOST_TIMELINES = 50
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
    """A pod as the gateway knows it; `failures` in a row, `ejected_seconds` for which it is still left out.

    `silent` is why its own records aren't here.
    """

    pod: str
    in_flight: int = 0
    failures: int = 0
    ejected_seconds: float = 0.0
    silent: str = ""
    load: Load | None = None
    machine: Facts = {}


class NodeAccount(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A node of the cluster and why a pod can't run there."""

    node: str
    lacks: list[str] = []


class Decision(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that the operator decided about a model. `time` is Unix time, of the last of `count` like it."""

    time: float
    kind: Annotated[str, Meta(max_length=64)]
    sentence: _Text
    count: int = 1
    facts: Annotated[dict[str, str | int | float | bool], Meta(max_length=40)] = {}


class OperatorDecisions(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /internal/decisions?model=NAMESPACE/NAME` of the operator, the newest first."""

    model: str
    leads: bool = True
    decisions: Annotated[list[Decision], Meta(max_length=200)] = []


class ModelAccount(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A model as its registry, or its resource, knows it. `reason` is one of docs/troubleshooting.md."""

    name: str
    progress: Progress | None = None
    reason: str = ""
    message: str = ""
    failure: Failure | None = None
    replicas: int = 0
    ready_replicas: int = 0
    pods: list[PodAccount] = []
    nodes: list[NodeAccount] = []
    decisions: list[Decision] = []
    events: list[str] = []


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

    about: Annotated[str, Meta(description="`request` or `model`.")]
    name: Annotated[str, Meta(description="Id of the request, or name of the model.")]
    sentence: Annotated[str, Meta(description="The first cause in one sentence.")]
    causes: Annotated[list[Cause], Meta(description="What it was, the weightiest first.")]
    timelines: Annotated[list[Timeline], Meta(description="What gateway and pods recorded.")] = []
    model: Annotated[ModelAccount | None, Meta(description="What is known of the model now.")] = None
    notes: Annotated[list[str], Meta(description="What couldn't be asked, and how far back records go.")] = []
