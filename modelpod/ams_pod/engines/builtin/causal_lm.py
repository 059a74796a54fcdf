"""What all families share that answer by a causal language model: forward, engine and the `Runtime` around them."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import torch
from ams_common.families import BY_NAME
from ams_common.fit import HEADROOM
from ams_common.lifecycle import Phase
from ams_common.pod_settings import ServeSettings

from ams_pod.engines.builtin.memory import device_memory, placing
from ams_pod.engines.builtin.memory.placing import Placement, best_dtype, place
from ams_pod.engines.builtin.model import verify
from ams_pod.engines.builtin.model.decoder import Decoder
from ams_pod.engines.builtin.model.padded import PaddedForward, cache_bytes_per_token
from ams_pod.engines.builtin.model.stack import UnsupportedStack, find_stack
from ams_pod.engines.builtin.model.weights import count_parameters, load_weights, read_config, weight_bytes
from ams_pod.engines.builtin.prompts.text import StreamDetokenizer, TextPrompts, sampling_defaults, stop_tokens
from ams_pod.engines.builtin.scheduler import admission
from ams_pod.engines.builtin.scheduler.batch import Forward
from ams_pod.engines.builtin.scheduler.core import Engine
from ams_pod.engines.builtin.scheduler.cpu_fallback import CpuLane
from ams_pod.engines.builtin.scheduler.ladder import parse_fallbacks
from ams_pod.engines.builtin.scheduler.oom_policy import Relief
from ams_pod.engines.builtin.towers.queue import Embedder
from ams_pod.engines.port import (
    EngineCounters,
    EngineLoad,
    LoadFailed,
    ModelInfo,
    Prepared,
    Publish,
    ReportPhase,
    Sampling,
    Ticket,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Load:
    """What `load` was asked for, with device and number format chosen."""

    folder: Path
    settings: ServeSettings
    device: str
    dtype: torch.dtype
    publish: Publish
    report: ReportPhase


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a family adds. `processor` is its tokenizer or processor; `tokenizer` that of its texts.

    `prompts` gets the context in tokens; `embedder` the model, None for a family without media.
    """

    family: str
    model_class: Any
    tokenizer: Any
    prompts: Callable[[int], TextPrompts]
    embedder: Callable[[Any], Embedder] | None = None
    audio_rate: int = 16_000
    weights_prefix: str = ""  # of the tensors that are loaded, where the files hold others as well


class DecodingRuntime:
    """A loaded language model with its engine, whatever goes through the towers in front of it: a `Runtime`."""

    def __init__(self, info: ModelInfo, prompts: TextPrompts, engine: Engine, limits: Mapping[str, int]) -> None:
        self.info = info
        self._limits = limits
        self._prompts = prompts
        self._engine = engine

    @property
    def counters(self) -> EngineCounters:
        return self._engine.counters

    def prepare_chat(self, messages: Sequence[dict[str, Any]]) -> Prepared:
        return self._prompts.chat(messages)

    def prepare_text(self, text: str) -> Prepared:
        return self._prompts.text(text)

    def prepare_ids(self, ids: Sequence[int]) -> Prepared:
        return self._prompts.ids(ids)

    def detokenizer(self) -> StreamDetokenizer:
        return self._prompts.detokenizer()

    def submit(self, prepared: Prepared, sampling: Sampling, sink: Any) -> Ticket:
        """Queue a request. ApiError if it couldn't be computed even with nothing else running."""
        refused = admission.refusal(
            len(prepared.ids),
            sampling.max_new_tokens,
            context_tokens=self.info.context_tokens,
            bytes_per_token=self.info.cache_bytes_per_token,
            room=self._room(),
        )
        if refused is not None:
            raise refused
        return self._engine.submit(prepared, sampling, sink)

    def load(self) -> EngineLoad:
        return self._engine.load()

    def memory(self) -> dict[str, Any]:
        return device_memory.status(self.info.device)

    def free_memory(self) -> None:
        self._engine.free_memory()

    def _room(self) -> int:
        """Bytes that the cache can take, all told: what it has already, and what is free."""
        if self.info.device != "cpu" and self.info.engine == Decoder.name:
            return self.info.concurrent_requests * self.info.context_tokens * self.info.cache_bytes_per_token
        held = self._engine.most_cached * self.info.cache_bytes_per_token
        return held + device_memory.free_bytes(self.info.device, self._limits)

    def run(self) -> None:
        self._engine.run()

    def stop(self) -> None:
        self._engine.stop()


def build(load: Load, recipe: Recipe) -> DecodingRuntime:
    """Load the weights and put the engine around them. LoadFailed if the model can't be served."""
    config = read_config(load.folder)
    prefix = recipe.weights_prefix if "thinker_config" in config else ""
    situation = placing.look(load.folder, config, load.settings, load.device, load.dtype, prefix)
    return place(situation, lambda placement: _build(load, recipe, placement))


def _build(load: Load, recipe: Recipe, placement: Placement) -> DecodingRuntime:
    load.report(Phase.BUILDING, None)
    model = load_weights(recipe.model_class, load.folder, placement, load.report)
    parameters, weights = count_parameters(model), weight_bytes(model)
    context = _context(load.settings, model, load.device)
    model, forward = _choose_forward(load, recipe, model, placement, context)
    load.report(Phase.WARMING_UP, None)
    prompts = recipe.prompts(forward.length)
    embedder = recipe.embedder(model) if recipe.embedder is not None else None
    relief = Relief(parse_fallbacks(load.settings.fallbacks), load.device, _lane(load, recipe, parameters))
    engine = Engine(forward, stop_tokens(load.folder, recipe.tokenizer), load.publish, embedder, relief)
    info = ModelInfo(
        architecture=type(model).__name__,
        family=recipe.family,
        modalities=tuple(sorted(BY_NAME[recipe.family].modalities)),
        device=load.device,
        precision=str(load.dtype).removeprefix("torch."),
        parameters=parameters,
        weights_bytes=weights,
        context_tokens=forward.length,
        cache_bytes_per_token=forward.bytes_per_token,
        concurrent_requests=forward.max_rows,
        engine=forward.name,
        thinks=prompts.thinks,
        defaults=sampling_defaults(load.folder),
        quantization=placement.quantization,
        quantization_reason=placement.reason,
        audio_rate=recipe.audio_rate,
    )
    return DecodingRuntime(info, prompts, engine, device_memory.limits(load.settings.max_memory))


def _lane(load: Load, recipe: Recipe, parameters: int) -> CpuLane | None:
    """Where requests go that the GPU has no memory for; it takes one at a time."""
    if load.device == "cpu" or "cpu" not in parse_fallbacks(load.settings.fallbacks):
        return None
    settings = msgspec.structs.replace(load.settings, concurrent_requests=1, quantization="none")
    there = replace(load, device="cpu", dtype=best_dtype("cpu"), settings=settings, report=lambda phase, percent: None)
    placement = Placement("cpu", there.dtype)
    limits = device_memory.limits(load.settings.max_memory)
    return CpuLane(
        lambda: _build(there, recipe, placement)._engine,
        int(parameters * there.dtype.itemsize * (1 + HEADROOM)),
        lambda: device_memory.free_bytes("cpu", limits),
        load.publish,
    )


def _context(settings: ServeSettings, model: Any, device: str) -> int:
    own = int(getattr(model.config.get_text_config(), "max_position_embeddings", None) or 4096)
    if not settings.context_tokens:
        per_token = cache_bytes_per_token(model)
        free = device_memory.free_bytes(device, device_memory.limits(settings.max_memory))
        return device_memory.fit_context(own, per_token, settings.concurrent_requests, free)
    if settings.context_tokens < verify.SHORTEST_CONTEXT:
        raise LoadFailed(f"limits.contextTokens is {settings.context_tokens}; at least {verify.SHORTEST_CONTEXT}")
    if settings.context_tokens > own:
        raise LoadFailed(f"limits.contextTokens is {settings.context_tokens}, but the model was made for {own}")
    return settings.context_tokens


def _choose_forward(load: Load, recipe: Recipe, model: Any, placement: Placement, context: int) -> tuple[Any, Forward]:
    """Our decoder if it computes what the model's own forward does, else that forward; and the model it runs."""
    rows = load.settings.concurrent_requests
    try:
        stack = find_stack(model)
    except UnsupportedStack as reason:
        log.info("the model runs through transformers' forward: %s", reason)
        return model, PaddedForward(model, rows, context)
    prompts = verify.probe_prompts(model.get_input_embeddings().weight.shape[0], rows)
    positions = verify.probe_positions(model)
    expected = verify.expected_logits(model, prompts, positions)
    decoder = Decoder(stack, rows, context, lambda percent: load.report(Phase.PACKING, percent))
    distance = verify.distance(decoder, prompts, expected, positions)
    if verify.close_enough(distance, load.dtype):
        return model, decoder
    log.warning("our decoder differs from the model's own forward by %.3g: the latter serves", distance)
    del decoder, stack, model  # the decoder took its weights
    model = load_weights(recipe.model_class, load.folder, placement, load.report)
    return model, PaddedForward(model, rows, context)
