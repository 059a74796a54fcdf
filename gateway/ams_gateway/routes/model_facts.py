"""What pods say of their models, for the list of models: asked at most every half a minute, and remembered."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from ams_gateway.proxy.pod_client import PodClient, PodUnavailable
from ams_gateway.proxy.upstream import Pools
from ams_gateway.registry.port import Backend, Model, Registry

_FRESH_SECONDS = 30.0


class PodCard(msgspec.Struct, frozen=True, kw_only=True):
    """What a pod says of its model."""

    max_model_len: int | None = None
    max_completion_tokens: int | None = None
    modalities: list[str] | None = None
    features: list[str] | None = None


class _PodCards(msgspec.Struct, frozen=True):
    data: list[PodCard]


@dataclass(frozen=True, slots=True)
class _Known:
    card: PodCard
    backend: str
    limits: tuple[int | None, int | None]  # of the manifest, when the pod was asked
    at: float  # monotonic seconds


class PodFacts:
    """What pods said of their models. It is kept when they are gone: a model at zero is still the same."""

    def __init__(self, registry: Registry, pools: Pools) -> None:
        self._registry = registry
        self._pools = pools
        self._known: dict[str, _Known] = {}

    async def of(self, model: Model) -> PodCard:
        """What a pod of the model says, asked if need be; what one said before; else what its manifest says."""
        key = model.key or model.name
        known = self._known.get(key)
        if known is not None and known.limits != _limits(model):
            known = None
        backend = next(iter(self._registry.backends(model)), None)
        if backend is not None and (known is None or _is_old(known, backend)):
            card = await self._ask(backend) or (known.card if known is not None else _of_manifest(model))
            known = self._known[key] = _Known(card, backend.id, _limits(model), time.monotonic())
        return known.card if known is not None else _of_manifest(model)

    def keep_only(self, models: Sequence[Model]) -> None:
        """Forget models that are gone."""
        keys = {model.key or model.name for model in models}
        self._known = {key: known for key, known in self._known.items() if key in keys}

    async def _ask(self, backend: Backend) -> PodCard | None:
        try:
            cards = await PodClient(self._pools.of(backend)).fetch_json("GET", "/v1/models", _PodCards)
        except PodUnavailable:
            return None
        return cards.data[0] if cards.data else None


def _limits(model: Model) -> tuple[int | None, int | None]:
    return model.context_tokens, model.max_new_tokens


def _of_manifest(model: Model) -> PodCard:
    context, most = _limits(model)
    bound = [number for number in (context, most) if number is not None] if context is not None else []
    return PodCard(max_model_len=context, max_completion_tokens=min(bound, default=None))


def _is_old(known: _Known, backend: Backend) -> bool:
    return known.backend != backend.id or time.monotonic() - known.at > _FRESH_SECONDS
