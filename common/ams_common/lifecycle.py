"""The phases of a model from preflight to draining: the one vocabulary for how far it is.

Fine phases are steps of a coarse one, their stage. Programs read the value (`warming-up`) in `Progress`, on `/ready`,
in held requests and in the admin routes; people read the stage's title (`Loading`) in `kubectl get mdep`.
"""

from enum import StrEnum
from typing import Final


class Phase(StrEnum):
    """How far a model is, in the order in which a model goes through them."""

    PENDING = "pending"  # known, and nothing works on it yet
    PREFLIGHT = "preflight"  # the hub is asked whether the model exists and fits
    SCHEDULING = "scheduling"  # the pod waits for a node
    STARTING = "starting"  # process or container starts
    DOWNLOADING = "downloading"
    VERIFYING = "verifying"  # checksums of files that are there
    CONVERTING = "converting"  # GGUF to safetensors
    LOADING = "loading"
    IMPORTING = "importing"  # libraries
    READING = "reading"  # weights from disk
    BUILDING = "building"  # the modules
    QUANTIZING = "quantizing"
    PACKING = "packing"  # weights into the layout of the engine
    WARMING_UP = "warming-up"
    CHECKING = "checking"  # golden prompts
    READY = "ready"
    DRAINING = "draining"  # no new requests; those that run are finished
    IDLE = "idle"  # at zero by its autoscaling; the next request starts it
    STOPPED = "stopped"  # at zero because its owner asked for no replicas
    SUSPENDED = "suspended"  # by spec.suspend
    FAILED = "failed"

    @property
    def stage(self) -> "Phase":
        """The coarse phase that this one is a step of; of a coarse phase, itself."""
        return _STAGES.get(self, self)

    @property
    def title(self) -> str:  # type: ignore[override]  # str.title() of a member is of no use
        """The stage as status.phase spells it: `Loading`."""
        return self.stage.value.capitalize()

    @property
    def is_cold(self) -> bool:
        """Nothing runs for the model, and nothing is wrong with it."""
        return self in _COLD


_STAGES: Final = {
    Phase.VERIFYING: Phase.DOWNLOADING,
    Phase.CONVERTING: Phase.DOWNLOADING,
    Phase.IMPORTING: Phase.LOADING,
    Phase.READING: Phase.LOADING,
    Phase.BUILDING: Phase.LOADING,
    Phase.QUANTIZING: Phase.LOADING,
    Phase.PACKING: Phase.LOADING,
    Phase.WARMING_UP: Phase.LOADING,
    Phase.CHECKING: Phase.LOADING,
}
_COLD: Final = frozenset({Phase.PENDING, Phase.IDLE, Phase.STOPPED, Phase.SUSPENDED})

STAGES: Final = tuple(phase for phase in Phase if phase.stage is phase)
_BY_TITLE: Final = {phase.title: phase for phase in STAGES}


def stage_of(title: str) -> Phase:
    """The stage of a status.phase; PENDING for a title that no stage has, such as a newer operator's."""
    return _BY_TITLE.get(title, Phase.PENDING)
