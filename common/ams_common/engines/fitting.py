"""Whether a model's weights fit where an engine of another make runs: as they are, on all GPUs together. Pure."""

from collections.abc import Sequence

from ams_common.engines.names import EngineName
from ams_common.fit import Fit, choose_fit
from ams_common.memory_offers import MemoryOffer, ModelSize, best_fit, needs_for
from ams_common.resource.spec import Spec

_TAKEN = 0.92  # of a GPU: what vLLM and SGLang take of it, the rest is for what they don't count


def engine_fit(
    spec: Spec, size: ModelSize, options: Sequence[MemoryOffer], engine: EngineName
) -> tuple[MemoryOffer, Fit]:
    """The roomiest place, and how the model fits there by that engine. `options` has at least one.

    Engines of other makes don't quantize, and share a cache that needs room for one request of the whole context.
    """
    if engine == "builtin":
        return best_fit(spec, size, options)
    rows = spec.limits.concurrent_requests if engine == "llamacpp" else 1
    need = needs_for(spec, size, rows=rows)[0]
    offer = max(options, key=_room)
    return offer, choose_fit([need], _room(offer), device="cuda" if offer.memory.gpus else "cpu")


def fits_gpus(spec: Spec, size: ModelSize, options: Sequence[MemoryOffer]) -> bool:
    """Whether vLLM could serve the weights as they are at one of these places."""
    return bool(options) and engine_fit(spec, size, options, "vllm")[1].fits


def _room(offer: MemoryOffer) -> int:
    gpus = offer.memory.gpus
    return int(sum(gpus) * _TAKEN) if gpus else offer.memory.ram or 0
