"""One model's part of the overview, from what is known of it. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec
from ams_common.progress import Load, Progress
from ams_common.reasons import row_of
from ams_common.wire import ErrorOverview, ModelOverview, PodOverview

from ams_gateway.overview.errors import is_of_the_request
from ams_gateway.overview.rates import Rates
from ams_gateway.registry.port import Model

_MODALITIES = ("text", "image", "audio", "video")
_FEATURES = ("constraints", "logprobs", "raw-prompts", "reasoning", "single-question", "tools")
_LONGEST_ETA_SECONDS = 1e6


class Card(Protocol):
    """What a pod says of its model."""

    @property
    def max_model_len(self) -> int | None: ...
    @property
    def modalities(self) -> list[str] | None: ...
    @property
    def features(self) -> list[str] | None: ...


@dataclass(frozen=True, slots=True)
class PodFigures:
    """A pod that takes requests, as it told of itself; `load` is None where it didn't in time."""

    id: str
    load: Load | None
    rates: Rates


def read_model(
    model: Model,
    progress: Progress,
    card: Card | None,
    pods: Sequence[PodFigures],
    errors: list[ErrorOverview],
    *,
    in_flight: int,
    held: int,
    controllable: bool,
) -> ModelOverview:
    """All that is known of a model; `for_user` takes away what isn't for everybody."""
    failure = progress.failure
    row = row_of(failure.reason) if failure is not None else None
    said = card.modalities if card is not None and card.modalities is not None else model.modalities
    resident = [pod.load.resident_bytes for pod in pods if pod.load is not None and pod.load.resident_bytes]
    return ModelOverview(
        name=model.name,
        aliases=list(model.aliases),
        adapters=list(model.adapters),
        state=progress.phase,
        percent=_rounded(progress.percent, 1),
        eta_seconds=_eta(progress.eta_seconds),
        message=failure.message if failure is not None else progress.message,
        reason=failure.reason if failure is not None else "",
        help=row.help if row is not None else "",
        download=progress.download,
        modalities=None if said is None else [each for each in _MODALITIES if each in said],
        features=None
        if card is None or card.features is None
        else [each for each in _FEATURES if each in card.features],
        max_model_len=card.max_model_len if card is not None else model.context_tokens,
        replicas=max(model.facts.replicas, len(pods)),
        ready_replicas=len(pods),
        in_flight=in_flight,
        held=held,
        queued=sum(max(0, pod.load.queued) for pod in pods if pod.load is not None),
        tokens_per_second=round(sum(pod.rates.generated_tokens or 0.0 for pod in pods), 1),
        memory_bytes=sum(resident) if resident else None,
        pods=[_read_pod(pod) for pod in pods],
        errors=errors,
        controllable=controllable,
    )


def for_user(overview: ModelOverview, *, admin: bool) -> ModelOverview:
    """What a user may see of a model that they may use.

    Pods, their memory, names of files, and errors of other users' own requests are an admin's.
    """
    if admin:
        return overview
    download = overview.download
    return msgspec.structs.replace(
        overview,
        memory_bytes=None,
        pods=[],
        download=None if download is None else msgspec.structs.replace(download, file=None),
        errors=[error for error in overview.errors if not is_of_the_request(error.code)],
        controllable=False,
    )


def _read_pod(pod: PodFigures) -> PodOverview:
    load = pod.load
    if load is None:
        return PodOverview(id=pod.id)
    return PodOverview(
        id=pod.id,
        running=load.in_flight,
        queued=load.queued,
        tokens_per_second=pod.rates.generated_tokens,
        prompt_tokens_per_second=pod.rates.prompt_tokens,
        memory_bytes=load.resident_bytes,
        cache_tokens=load.cache_tokens,
        cache_capacity_tokens=load.cache_capacity_tokens,
    )


def _eta(seconds: float | None) -> float | None:
    return None if seconds is None else _rounded(min(seconds, _LONGEST_ETA_SECONDS), 0)


def _rounded(number: float | None, digits: int) -> float | None:
    """A pod may say what it likes."""
    return None if number is None or not math.isfinite(number) else round(number, digits)
