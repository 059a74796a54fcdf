"""What all families share that answer by a causal language model: forward, engine and the `Engine` around them."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
from ams_common.families import BY_NAME, modalities_of
from ams_common.fit import HEADROOM
from ams_common.lifecycle import Phase
from ams_common.pod_settings import ServeSettings

from ams_pod.engines.builtin.choosing import load_and_choose
from ams_pod.engines.builtin.constraints.compiling import Compiled, Compiler
from ams_pod.engines.builtin.constraints.vocabulary import read_vocabulary
from ams_pod.engines.builtin.load_request import LoadRequest
from ams_pod.engines.builtin.memory import device_memory, placing
from ams_pod.engines.builtin.memory.device_memory import CacheSize
from ams_pod.engines.builtin.memory.placing import Placement, best_dtype, place_weights
from ams_pod.engines.builtin.model import verify
from ams_pod.engines.builtin.model.batch import Forward
from ams_pod.engines.builtin.model.decoder import Decoder
from ams_pod.engines.builtin.model.padded import cache_bytes_per_token
from ams_pod.engines.builtin.recipe import Recipe
from ams_pod.engines.builtin.scheduler import admission
from ams_pod.engines.builtin.scheduler.core import EngineCore
from ams_pod.engines.builtin.scheduler.cpu_copy import CpuCopy
from ams_pod.engines.builtin.scheduler.ladder import parse_fallbacks
from ams_pod.engines.builtin.scheduler.oom_policy import OomFallbacks
from ams_pod.engines.port import (
    PLAIN_CHAT,
    Capabilities,
    ChatOptions,
    Constraint,
    EngineCounters,
    EngineRefusal,
    Feature,
    LoadFailed,
    MemoryUsage,
    ModelInfo,
    Occupancy,
    Prepared,
    Sampling,
    Sink,
    Ticket,
)
from ams_pod.engines.prompts.folder import read_model_config
from ams_pod.engines.prompts.text import StreamDetokenizer, TextPrompts, sampling_defaults, stop_tokens
from ams_pod.media.sizing import Sizes
from ams_pod.shares import EVERYBODY, Share

log = logging.getLogger(__name__)
_LEAST_IMAGE_PIXELS = 1280 * 28 * 28  # however little memory there is: what most models see of an image


class CausalLmEngine:
    """A loaded language model with its core, whatever goes through the towers in front of it: an `Engine`."""

    def __init__(
        self,
        info: ModelInfo,
        capabilities: Capabilities,
        prompts: TextPrompts,
        core: EngineCore,
        limits: Mapping[str, int],
        compiler: Compiler,
    ) -> None:
        self.info = info
        self.capabilities = capabilities
        self.core = core
        self._limits = limits
        self._compiler = compiler
        self._prompts = prompts

    @property
    def counters(self) -> EngineCounters:
        return self.core.refreshed_counters()

    def prepare_chat(self, messages: Sequence[dict[str, Any]], options: ChatOptions = PLAIN_CHAT) -> Prepared:
        return self._prompts.chat(messages, options)

    def prepare_text(self, text: str) -> Prepared:
        return self._prompts.text(text)

    def prepare_ids(self, ids: Sequence[int]) -> Prepared:
        return self._prompts.ids(ids)

    def prepare_pair(self, query: str, text: str) -> Prepared:
        raise EngineRefusal("unsupported", "This model doesn't compare texts.")

    def prepare_constraint(self, constraint: Constraint) -> Compiled:
        return self._compiler.prepare(constraint)

    def detokenizer(self, after: Sequence[int] = (), *, special: bool = False) -> StreamDetokenizer:
        return self._prompts.detokenizer(after, special=special)

    def token_bytes(self, token: int) -> bytes:
        return self._prompts.token_bytes(token)

    def text_of(self, ids: Sequence[int]) -> str:
        return self._prompts.text_of(ids)

    def submit(
        self, prepared: Prepared, sampling: Sampling, sink: Sink, share: Share = EVERYBODY, cache_salt: str = ""
    ) -> Ticket:
        """Queue a request, whose answer is as long as memory allows. EngineRefusal if it allows none, even alone."""
        if sampling.prompt_logprobs is not None and "logprobs" not in self.capabilities.features:
            raise EngineRefusal("unsupported", "Logprobs of a prompt can't be told of this model.")
        allowed = admission.new_tokens_for(
            len(prepared.ids),
            sampling.max_new_tokens,
            context_tokens=self.info.context_tokens,
            bytes_per_token=self.info.cache_bytes_per_token,
            room=self._room(),
        )
        if isinstance(allowed, EngineRefusal):
            raise allowed
        return self.core.submit(prepared, replace(sampling, max_new_tokens=allowed), sink, share, cache_salt)

    def cancel(self, ticket: Ticket) -> None:
        self.core.cancel(ticket)

    def occupancy(self) -> Occupancy:
        return self.core.occupancy()

    def memory(self) -> MemoryUsage:
        return device_memory.usage(self.info.device)

    def free_memory(self) -> None:
        self.core.free_memory()

    def _room(self) -> int:
        """Bytes that the cache can take, in all: what it has already, and what is free."""
        if self.info.device != "cpu" and self.info.engine == Decoder.name:
            return self.core.cache_tokens * self.info.cache_bytes_per_token
        held = (self.core.most_cached + self.core.prefix_tokens) * self.info.cache_bytes_per_token
        return held + device_memory.free_bytes(self.info.device, self._limits)

    def run(self) -> None:
        self.core.run()

    def stop(self) -> None:
        self.core.stop()


def build(request: LoadRequest, recipe: Recipe) -> CausalLmEngine:
    """Load the weights and put the engine around them. LoadFailed if the model can't be served."""
    config, prefix = read_model_config(request.folder), BY_NAME[recipe.family].weights_prefix
    inputs = placing.measure(request.folder, config, request.settings, request.device, request.dtype, prefix)
    return place_weights(inputs, lambda placement: _build(request, recipe, placement))


def _build(request: LoadRequest, recipe: Recipe, placement: Placement) -> CausalLmEngine:
    request.report(Phase.BUILDING, None)
    found = load_and_choose(
        request, recipe, placement, lambda model, more: _cache_size(request.settings, model, request.device, more)
    )
    loaded, forward, embedder = found.serving, found.serving.forward, found.serving.embedder
    request.report(Phase.WARMING_UP, None)
    prompts = recipe.prompts(forward.length)
    fallbacks = OomFallbacks(
        parse_fallbacks(request.settings.fallbacks), request.device, _cpu_copy(request, recipe, found.parameters)
    )
    limits = device_memory.limits(request.settings.max_memory)
    ends = stop_tokens(request.folder, recipe.tokenizer)
    core = EngineCore(
        forward, ends, request.publish, embedder, fallbacks, lambda: device_memory.is_short(request.device, limits),
        speculate=request.settings.speculation == "auto",
    )  # fmt: skip
    vocabulary = _vocabulary(loaded.model)
    compiler = Compiler(
        lambda: read_vocabulary(recipe.tokenizer.backend_tokenizer, vocabulary, ends, thinks=prompts.thinks)
    )
    info = ModelInfo(
        architecture=type(loaded.model).__name__,
        family=recipe.family,
        device=request.device,
        precision=str(request.dtype).removeprefix("torch."),
        parameters=found.parameters,
        weights_bytes=found.weights,
        context_tokens=forward.length,
        cache_bytes_per_token=forward.bytes_per_token,
        concurrent_requests=forward.max_rows,
        engine=forward.name,
        defaults=sampling_defaults(request.folder),
        quantization=placement.quantization,
        quantization_reason=placement.reason,
        vocabulary=vocabulary,
        chat_template=prompts.template,
        added_tokens=prompts.added_tokens,
        special_tokens=prompts.special_tokens,
    )
    capabilities = Capabilities(
        modalities=modalities_of(recipe.family),
        features=_features(prompts, forward),
        audio_rate=recipe.audio_rate,
        sizes=_bounded_sizes(prompts.sizes, recipe, loaded.model, request, forward.length),
    )
    if found.tiles is not None:
        found.tiles.settle(core.fail)
    return CausalLmEngine(info, capabilities, prompts, core, limits, compiler)


def _features(prompts: TextPrompts, forward: Forward) -> frozenset[Feature]:
    features: set[Feature] = {"raw-prompts", "constraints"}
    if prompts.thinks:
        features.add("reasoning")
    if prompts.habits.tools:
        features.add("tools")
    if not forward.whole_prompts:  # one that reads prompts as `generate` does keeps the last logits alone
        features.add("logprobs")
    return frozenset(features)


def _vocabulary(model: Any) -> int:
    """How many tokens the model tells apart, those that its tokenizer has no text for included."""
    head = model.get_output_embeddings()
    return int(head.out_features if hasattr(head, "out_features") else head.weight.shape[0])


def _bounded_sizes(sizes: Sizes, recipe: Recipe, model: Any, request: LoadRequest, context: int) -> Sizes:
    """The model's rules, with images that fit the context beside a question, and the memory beside the model."""
    if sizes.image is None or recipe.image_bytes is None:
        return sizes
    free = device_memory.free_bytes(request.device, device_memory.limits(request.settings.max_memory))
    by_memory = max(_LEAST_IMAGE_PIXELS, int(free / 2 / recipe.image_bytes(model)))
    by_context = context // 2 * sizes.image.factor**2
    bounded = sizes.within(min(by_memory, by_context))
    if bounded != sizes:
        what = "memory" if by_memory < by_context else "context"
        log.warning(
            "images are scaled to at most %d pixels (the checkpoint allows %d): more of them would not fit the %s",
            min(by_memory, by_context), sizes.image.max_pixels, what,
        )  # fmt: skip
    return bounded


def _cpu_copy(request: LoadRequest, recipe: Recipe, parameters: int) -> CpuCopy | None:
    """Where requests go that the GPU has no memory for; it takes one at a time."""
    if request.device == "cpu" or "cpu" not in parse_fallbacks(request.settings.fallbacks):
        return None
    settings = msgspec.structs.replace(request.settings, concurrent_requests=1, quantization="none")
    there = replace(
        request, device="cpu", dtype=best_dtype("cpu"), settings=settings, report=lambda phase, percent: None
    )
    placement = Placement("cpu", there.dtype)
    limits = device_memory.limits(request.settings.max_memory)
    return CpuCopy(
        lambda: _build(there, recipe, placement).core,
        int(parameters * there.dtype.itemsize * (1 + HEADROOM)),
        lambda: device_memory.free_bytes("cpu", limits),
        request.publish,
    )


def _cache_size(settings: ServeSettings, model: Any, device: str, weights_to_come: int) -> CacheSize:
    own = int(getattr(model.config.get_text_config(), "max_position_embeddings", None) or 4096)
    setting = settings.context_tokens
    if setting and setting < verify.SHORTEST_CONTEXT:
        raise LoadFailed(f"limits.contextTokens is {setting}; at least {verify.SHORTEST_CONTEXT}")
    if setting > own:
        raise LoadFailed(f"limits.contextTokens is {setting}, but the model was made for {own}")
    free = max(0, device_memory.free_bytes(device, device_memory.limits(settings.max_memory)) - weights_to_come)
    per_token, rows = cache_bytes_per_token(model), settings.concurrent_requests
    return device_memory.fit_cache(own, per_token, rows, free, setting, settings.prefix_cache_tokens)
