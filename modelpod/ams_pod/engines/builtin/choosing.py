"""Which forward pass serves a loaded model: our own decoder where it computes what the model does, else the model's."""

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from ams_common.families import BY_NAME
from ams_common.lifecycle import Phase

from ams_pod.engines.builtin.compiled import computes_grouped
from ams_pod.engines.builtin.load_request import LoadRequest
from ams_pod.engines.builtin.memory.device_memory import CacheSize
from ams_pod.engines.builtin.memory.out_of_memory import is_out_of_memory
from ams_pod.engines.builtin.memory.placing import Placement
from ams_pod.engines.builtin.model import verify, verify_separate
from ams_pod.engines.builtin.model.batch import Forward, SlotFailed
from ams_pod.engines.builtin.model.decoder import Decoder
from ams_pod.engines.builtin.model.grouped import has_grouped
from ams_pod.engines.builtin.model.grouping import use_torchs_kernel
from ams_pod.engines.builtin.model.named import NotAsNamed, load_as_named
from ams_pod.engines.builtin.model.native.kept_tiles import KeptTiles
from ams_pod.engines.builtin.model.own_logits import OwnLogits
from ams_pod.engines.builtin.model.padded import PaddedForward
from ams_pod.engines.builtin.model.separate import SeparateForward
from ams_pod.engines.builtin.model.stack import UnsupportedStack, find_stack
from ams_pod.engines.builtin.model.weights import count_parameters, load_weights, weight_bytes
from ams_pod.engines.builtin.recipe import Recipe
from ams_pod.engines.builtin.threads import one_thread
from ams_pod.engines.builtin.towers.embedder import MediaEmbedder
from ams_pod.engines.port import EngineRefusal, LoadFailed, Prepared
from ams_pod.resident import anonymous_bytes

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Serving:
    """The model, the forward that serves it, and what makes prompts of its media."""

    model: Any
    forward: Forward
    embedder: MediaEmbedder | None


@dataclass(frozen=True, slots=True)
class Loaded:
    """What serves, and of the weights how many they are and the bytes that they take. `tiles` are to be settled."""

    serving: Serving
    parameters: int
    weights: int
    tiles: KeptTiles | None


@dataclass(frozen=True, slots=True)
class Kept:
    """What loads of this model leave for later ones; none of a model of which too little is known."""

    logits: OwnLogits | None = None
    tiles: KeptTiles | None = None

    @classmethod
    def of(cls, request: LoadRequest, recipe: Recipe, placement: Placement) -> "Kept":
        quantizes = placement.quantization != "none" and not placement.keeps_groups
        if recipe.embedder is not None or recipe.separate_probes is not None:
            return cls()
        if placement.device != "cpu" or quantizes:
            return cls()
        return cls(OwnLogits.of(request, placement), KeptTiles.of(request, placement))

    def forget(self) -> None:
        """What was found was of no use: it is neither there any more nor used by this load."""
        if self.logits is not None:
            self.logits.forget()
        if self.tiles is not None:
            self.tiles.forget()


SizeOf = Callable[[Any, int], CacheSize]
"""How large the cache of a model may be, whose weights will take so many bytes more than they have by now."""


def load_and_choose(request: LoadRequest, recipe: Recipe, placement: Placement, size_of: SizeOf) -> Loaded:
    """The weights, and what serves them. LoadFailed if they don't fit the recipe's class, or nothing answers as it."""
    kept, anonymous = Kept.of(request, recipe, placement), anonymous_bytes()

    def size(model: Any, weights: int) -> CacheSize:
        mapped = weights - (anonymous_bytes() - anonymous) if placement.device == "cpu" and anonymous else 0
        return size_of(model, max(0, mapped))

    try:
        if (loaded := _load_again(request, recipe, placement, size, kept)) is not None:
            return loaded
    except NotAsNamed as reason:
        log.debug("transformers loads it: %s", reason)
        kept = Kept()
    if kept.tiles is not None:
        kept.tiles.maps = False
    model = load_model(request, recipe, placement)
    parameters, weights = count_parameters(model), weight_bytes(model)
    serving = choose_forward(request, recipe, model, placement, size(model, weights), kept)
    return Loaded(serving, parameters, weights, kept.tiles)


def load_model(request: LoadRequest, recipe: Recipe, placement: Placement) -> Any:
    """The weights in the recipe's class. LoadFailed if they don't fit it."""
    unquantized = BY_NAME[recipe.family].unquantized
    model = load_weights(recipe.model_class, request.folder, placement, request.report, unquantized)
    _use_torchs_kernel(model, placement)
    return model


def _use_torchs_kernel(model: Any, placement: Placement) -> None:
    if placement.device == "cpu" and placement.dtype == torch.bfloat16 and not computes_grouped():
        use_torchs_kernel(model, model.get_output_embeddings())


def _load_again(
    request: LoadRequest, recipe: Recipe, placement: Placement, size_of: SizeOf, kept: Kept
) -> Loaded | None:
    """A model whose own forward was asked by an earlier load: its decoder is compared with what that said.

    None if nothing is known of it, or anything about it is other than it was. NotAsNamed if transformers loads it.
    """
    if kept.logits is None or not kept.logits.is_there():
        return None
    model = load_as_named(recipe.model_class, request.folder, placement)
    known = kept.logits.read(verify.short_logits_shape(model))
    if known is None:
        return None
    _use_torchs_kernel(model, placement)
    parameters, weights = count_parameters(model), weight_bytes(model)
    probe = verify.short_probe(model, known)
    decoder = _decoder(model, request, size_of(model, weights), kept.tiles)
    distance = verify.distance_of_known(decoder, probe)
    if not verify.close_enough(distance, request.dtype):
        log.warning("our decoder differs by %.3g from what the model's own forward said before: checked anew", distance)
        kept.forget()
        return None
    return Loaded(Serving(model, decoder, None), parameters, weights, kept.tiles)


def choose_forward(
    request: LoadRequest,
    recipe: Recipe,
    model: Any,
    placement: Placement,
    size: CacheSize,
    kept: Kept,
) -> Serving:
    """Our decoder, or the model's own forward. LoadFailed if neither answers prompts with media as the model does.

    `kept` gets what the own forward says of texts, where that is all that was to be checked.
    """
    rows = request.settings.concurrent_requests
    if recipe.separate_probes is not None:
        return Serving(model, choose_separate(model, recipe.separate_probes, request, size.context_each), None)
    embedder = recipe.embedder(model) if recipe.embedder is not None else None
    with_media = _media_probes(recipe, model, embedder, size.context_each)
    with one_thread() if computes_grouped() and has_grouped(model) else nullcontext():
        probes, short = (with_media, None) if with_media else verify.text_probes_and_short(model, rows)
    if not verify.has_numbers(probes):
        raise LoadFailed(
            "the model computes what is no number (NaN): its weights are damaged, or their number format is too narrow"
            " for it (spec.precision)"
        )
    try:
        find_stack(model)
    except UnsupportedStack as reason:
        log.info("the model runs through transformers' forward: %s", reason)
        padded = PaddedForward(model, rows, size.context_each)
        _own_distance(model, padded, with_media, request)
        return Serving(model, padded, embedder)
    decoder = _decoder(model, request, size, kept.tiles)
    distance = verify.distance(decoder, probes)
    if verify.close_enough(distance, request.dtype):
        if kept.logits is not None and short is not None:
            _keep(kept.logits, short, decoder, request.dtype)
        return Serving(model, decoder, embedder)
    del decoder, model, embedder  # the decoder took its weights
    if kept.tiles is not None:
        kept.tiles.release()
    model = load_model(request, recipe, placement)
    embedder = recipe.embedder(model) if recipe.embedder is not None else None
    padded = PaddedForward(model, rows, size.context_each)
    if verify.as_close(distance, own := _own_distance(model, padded, probes, request)):
        log.warning("our decoder differs by %.3g, as the model's own forward in chunks does by %.3g", distance, own)
        return Serving(model, _decoder(model, request, size), embedder)
    log.warning("our decoder differs from the model's own forward by %.3g: the latter serves", distance)
    return Serving(model, padded, embedder)


def _keep(logits: OwnLogits, probe: verify.LogitsProbe, decoder: Decoder, dtype: torch.dtype) -> None:
    if verify.close_enough(verify.distance_of_known(decoder, probe), dtype):
        logits.keep(probe.expected)


def choose_separate(
    model: Any, prompts: Callable[[], Sequence[Prepared]], request: LoadRequest, context: int
) -> SeparateForward:
    """The model's own forward for requests beside each other, or one at a time where they would disturb each other.

    LoadFailed if it doesn't give what `generate` does.
    """
    forward = SeparateForward(model, request.settings.concurrent_requests, context)
    name = type(model).__name__
    try:
        probes = [verify_separate.generated_probe(model, prepared) for prepared in prompts()]
        together = verify_separate.token_distance(forward, probes)
        if verify.close_enough(together, request.dtype):
            return forward
        apart = max(verify_separate.token_distance(forward, [probe]) for probe in probes)
    except EngineRefusal as refusal:
        raise LoadFailed(f"no prompt with an image can be made for {name}: {refusal}") from None
    except Exception as error:
        cause = error.cause if isinstance(error, SlotFailed) else error
        if is_out_of_memory(cause):
            raise cause from None
        raise LoadFailed(
            f"{name} can't be computed token by token as transformers' generate does ({type(cause).__name__}: {cause})"
        ) from cause
    if not verify.close_enough(apart, request.dtype):
        raise LoadFailed(f"{name} answers differently (by {apart:.3g}) from transformers' generate, so it isn't served")
    log.warning("requests of %s disturb each other (by %.3g): one is computed at a time", name, together)
    return SeparateForward(model, 1, context)


def _media_probes(recipe: Recipe, model: Any, embedder: MediaEmbedder | None, context: int) -> list[verify.LogitsProbe]:
    """A prompt with media and its text; none for a model without, or where no prompt with media can be served."""
    if recipe.probe is None or embedder is None:
        return []
    try:
        probe = recipe.probe()
    except EngineRefusal as refusal:
        log.warning("prompts with media are not checked: %s", refusal)
        return []
    if len(probe.prepared.ids) > context:
        return []
    with recipe.while_probing(model):
        return verify.media_probes(model, probe, embedder.embed(probe.prepared))


def _decoder(model: Any, request: LoadRequest, size: CacheSize, tiles: KeptTiles | None = None) -> Decoder:
    stack, rows = replace(find_stack(model), kept_tiles=tiles), request.settings.concurrent_requests
    return Decoder(
        stack, rows, size.context, lambda percent: request.report(Phase.PACKING, percent),
        cache_tokens=size.tokens,
        prefix_tokens=size.prefixes,
    )  # fmt: skip


def _own_distance(
    model: Any, padded: PaddedForward, probes: Sequence[verify.LogitsProbe], request: LoadRequest
) -> float:
    """How far the model's own forward is, when it gets what our side makes of a prompt. LoadFailed if far off."""
    if not probes:
        return 0.0
    distance = verify.distance(padded, probes)
    if verify.clearly_other(distance, request.dtype):
        raise LoadFailed(
            f"{type(model).__name__} answers prompts with media differently from how it would be served here "
            f"(by {distance:.3g}), so it is not served"
        )
    return distance
