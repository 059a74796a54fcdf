"""What the gateway asks about models, and of whom: fed by Kubernetes watches on a cluster, by `ams up` on a laptop."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from ams_common.errors import ApiError
from ams_common.lifecycle import Phase
from ams_common.names import resource_name
from ams_common.progress import Progress

_NAMES_IN_A_SENTENCE = 50


@dataclass(slots=True, eq=False)
class Backend:
    """One model pod. `address` is `http://host:port` or `unix:///path/to.sock`.

    The gateway keeps the counters; who owns the registry may read them (an idle pod has nothing in flight).
    """

    id: str
    address: str
    in_flight: int = 0
    last_used: float = 0.0  # event loop time when a request last started or ended, seconds
    failures: int = 0  # connections failed in a row
    ejected_until: float = 0.0  # event loop time, seconds
    answer_version: str = ""  # as it told with an answer; empty until then
    lacks_until: dict[str, float] = field(default_factory=dict)  # adapters that it said it hasn't: event loop time

    def lacks(self, adapter: str | None, now: float) -> bool:
        """Whether the pod said a moment ago that it hasn't this adapter."""
        return bool(adapter) and self.lacks_until.get(adapter or "", 0.0) > now


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What a registry's owner knows of a model and /admin/model_status reports; no request is routed by it."""

    model_type: str | None = None  # the older server's word for the family
    source: str | None = None  # the folder of the weights, or where they come from
    source_exists: bool = False  # whether the weights are on this machine, or on the cluster's volume
    quantization_bits: int | None = None
    max_memory: dict[str, int | str] | None = None
    replicas: int = 0  # pods that should run
    engine: str | None = None  # as in spec.engine.name, and why this one
    engine_reason: str | None = None
    engine_version: str | None = None  # where the owner was told
    reason: str = ""  # why it isn't ready, also where waiting may help; as docs/troubleshooting.md lists reasons


@dataclass(frozen=True, slots=True)
class KeepAnswers:
    """For how long answers of a model are kept, and how many bytes of them."""

    seconds: float
    most_bytes: int


@dataclass(frozen=True, slots=True)
class Model:
    """A model as the gateway needs it. `modalities` is None until they are known; `adapters` are names of its own."""

    name: str
    aliases: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()
    adapter_phases: Mapping[str, Phase] = field(default_factory=dict)  # of those that aren't served as they should be
    modalities: frozenset[str] | None = None
    max_body_bytes: int = 64 << 20
    request_timeout_seconds: float = 600.0
    created: int = 0  # Unix time, for /v1/models
    context_tokens: int | None = None  # of prompt and answer, and of an answer, where the manifest has numbers
    max_new_tokens: int | None = None
    answers: KeepAnswers | None = None  # None: no answer is given twice
    key: str = ""  # `<namespace>/<name>` on a cluster, empty elsewhere
    facts: ModelFacts = field(default_factory=ModelFacts)


class Controls(Protocol):
    """Starting and stopping models, where the registry's owner does so itself."""

    def start(self, model: Model) -> Progress:
        """Start the model as a request would, also one that failed a moment ago. ApiError `suspended`, `draining`."""

    def stop(self, model: Model) -> Progress:
        """Let its requests finish and end it; the next request or `start` starts it again."""

    async def log(self, model: Model) -> str:
        """What its processes wrote since its current start-up began, the end of it; empty if it never started."""


class Registry(Protocol):
    """What the gateway asks about models. All methods run on the gateway's event loop and never block.

    `where` the models run; `controls` is None where something else starts and stops them.
    """

    @property
    def where(self) -> Literal["local", "cluster", "static"]: ...

    @property
    def controls(self) -> Controls | None: ...

    def models(self) -> Sequence[Model]:
        """All models, sorted by name."""

    def find(self, name: str) -> Model | None:
        """The model of this name or alias; `_` and `-` are alike, case is ignored."""

    def backends(self, model: Model) -> Sequence[Backend]:
        """The pods that are ready now. Backend objects keep their identity while the pod lives."""

    def progress(self, model: Model) -> Progress:
        """How far the model is; phase `ready` when a backend answers."""

    def wait_ready(self, model: Model) -> AsyncIterator[Progress]:
        """Ask for the model and follow it: yields at once and on each change, ends when a backend is ready.

        Raises ApiError (`model_failed`, `suspended`) when it will not get ready. Closing the iterator withdraws the
        demand.
        """

    def unreachable(self, model: Model, backend: Backend) -> None:
        """A connection to this backend was refused: the owner may check on it."""


def require_model(registry: Registry, name: str) -> Model:
    """The model of this name or alias; ApiError `model_not_found` lists those there are."""
    if (model := registry.find(name)) is not None:
        return model
    names = [model.name for model in registry.models()]
    listed = f"Models: {', '.join(names[:_NAMES_IN_A_SENTENCE])}." if names else "No model is deployed yet."
    raise ApiError(
        "model_not_found", f"No such model: {resource_name(name)[:100]}. {listed}", param="model", models=names
    )
