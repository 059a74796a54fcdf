"""What a ModelDeployment wishes of the engine that computes for it, whichever one that is. Pure."""

import math
from dataclasses import dataclass

from ams_common.adapters import MOST_ADAPTERS, RANK_WORD, adapter_id, link_name
from ams_common.families import BY_NAME
from ams_common.pod_settings import Precision
from ams_common.quantity import InvalidQuantity, parse_memory, parse_quantity
from ams_common.resource.core import ResourceRequirements
from ams_common.resource.spec import AdapterSpec, ModelDeployment, Spec
from ams_common.source import InvalidSource, names_gguf, parse_source

_GPU = "/gpu"  # of every vendor's resource that counts whole GPUs, as nvidia.com/gpu and amd.com/gpu
_GPU_PARTS = ("nvidia.com/mig-", "gpu.intel.com/", "habana.ai/")
_HEADROOM = 0.10  # of the weights: activations, fragments of the allocator


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What is known of a model beside its resource: its family, and the bytes of its weights; None while it isn't."""

    family: str | None = None
    weights_bytes: int | None = None


UNKNOWN = ModelFacts()


@dataclass(frozen=True, slots=True)
class AdapterWish:
    """A LoRA adapter: its name, what requests call it (MODEL:NAME), and its folder or GGUF file."""

    name: str
    id: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One node of an engine that computes over several: `rank` of it, from 0, and the leader's `address`.

    The leader has rank 0 and answers requests. Texts, as the cluster may fill them in where the engine starts.
    """

    leader: bool
    rank: str
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineWishes:
    """All that an engine of another make is told by its arguments.

    `model` is a folder, or a GGUF file; `port` is text, as it may stand for one that is chosen later. `gpus` is how
    many it has on each of its `nodes`, 0 for none; `cpus` how many it may use there, None for all. `context_tokens`
    None: as many as the model and memory allow. `cache_bytes` is what keys and values may take on each device, None
    where nothing bounds it. `images` and the others: what the family takes. `lora_rank` is the highest of the adapters'
    ranks, as text, since a word may stand for one that is known later. `dynamic_adapters`: they are loaded while it
    runs, and others may follow. `embeds`: it makes vectors or scores, and no text. `arguments` are the user's own, and
    come last.
    """

    model: str
    name: str
    host: str
    port: str
    gpus: int = 0
    nodes: int = 1
    cpus: int | None = None
    precision: Precision = "auto"
    context_tokens: int | None = None
    concurrent_requests: int = 16
    prefix_cache: bool = True
    cache_bytes: int | None = None
    images: bool = False
    videos: bool = False
    audio: bool = False
    embeds: bool = False
    video_frames: int = 8
    image_pixels: int | None = None
    sleep: bool = False
    adapters: tuple[AdapterWish, ...] = ()
    lora_rank: str = RANK_WORD
    dynamic_adapters: bool = False
    arguments: tuple[str, ...] = ()

    @property
    def adapter_room(self) -> int:
        """How many adapters it is to have room for."""
        return MOST_ADAPTERS if self.dynamic_adapters else len(self.adapters)


def wishes_of(
    resource: ModelDeployment,
    *,
    model: str,
    host: str,
    port: int | str,
    facts: ModelFacts = UNKNOWN,
    gpus: int | None = None,
    links: str = "",
    lora_rank: str = RANK_WORD,
    dynamic_adapters: bool = False,
) -> EngineWishes:
    """`gpus` are those that are there, where that differs from what the resource asks for. `links` is the folder
    with the links to adapters.

    `{model}` and `{port}` in the user's arguments are replaced by those given here, which may be such words too.
    """
    spec, limits = resource.spec, resource.spec.limits
    resources = engine_resources(spec)
    takes = BY_NAME[name].modalities if (name := family_name(spec, facts)) is not None else frozenset()
    return EngineWishes(
        model=model,
        name=resource.metadata.name,
        host=host,
        port=str(port),
        gpus=(gpu_count(resources) or int(bool(resources.claims))) if gpus is None else gpus,
        nodes=spec.engine.nodes,
        cpus=_cpus(resources),
        precision=spec.precision,
        context_tokens=None if limits.context_tokens == "auto" else limits.context_tokens,
        concurrent_requests=limits.concurrent_requests,
        prefix_cache=limits.prefix_cache_tokens != 0,
        cache_bytes=cache_bytes(spec, facts),
        images="image" in takes,
        videos="video" in takes,
        audio="audio" in takes,
        embeds=name == "embedding",
        video_frames=limits.video_frames,
        image_pixels=None if limits.image_pixels == "auto" else limits.image_pixels,
        sleep=sleeps(spec),
        adapters=tuple(
            AdapterWish(each.name, adapter_id(resource.metadata.name, each.name), f"{links}/{_link(each)}")
            for each in spec.adapters
        ),
        lora_rank=lora_rank,
        dynamic_adapters=dynamic_adapters,
        arguments=tuple(each.replace("{model}", model).replace("{port}", str(port)) for each in spec.engine.args),
    )


def is_gguf_source(text: str) -> bool:
    """Whether a source names one GGUF file."""
    try:
        return names_gguf(parse_source(text))
    except InvalidSource:
        return False


def _link(adapter: AdapterSpec) -> str:
    return link_name(adapter.name, gguf=is_gguf_source(adapter.source))


def family_name(spec: Spec, facts: ModelFacts = UNKNOWN) -> str | None:
    """As the resource names it, else as it is known; None while it isn't."""
    return spec.model.family if spec.model.family != "auto" else facts.family


def engine_resources(spec: Spec) -> ResourceRequirements:
    """What the process that computes asks for."""
    return spec.engine.resources or spec.resources


def gpu_count(resources: ResourceRequirements) -> int:
    """GPUs of any vendor, or parts of one, by limits as in `nvidia.com/gpu: 1`. Claims don't tell how many they are."""
    return sum(
        int(parse_quantity(count))
        for name, count in {**resources.requests, **resources.limits}.items()
        if name.endswith(_GPU) or name.startswith(_GPU_PARTS)
    )


def wants_gpu(resources: ResourceRequirements) -> bool:
    return bool(gpu_count(resources) or resources.claims)


def sleeps(spec: Spec) -> bool:
    """Whether an idle engine is to sleep instead of ending."""
    return spec.autoscaling is not None and spec.autoscaling.idle == "sleep"


def cache_bytes(spec: Spec, facts: ModelFacts) -> int | None:
    """What spec.maxMemory leaves for keys and values on the device that has least of it; 0 where it leaves nothing.

    None where it bounds nothing, or the size of the weights isn't known.
    """
    if facts.weights_bytes is None or not (sizes := _device_sizes(spec)):
        return None
    share = facts.weights_bytes / (max(1, gpu_count(engine_resources(spec))) * spec.engine.nodes)
    return max(0, min(sizes) - int(share * (1 + _HEADROOM)))


def _device_sizes(spec: Spec) -> list[int]:
    """Of GPUs where some are asked for, else of the machine."""
    on_gpu = wants_gpu(engine_resources(spec))
    return [parse_memory(size) for device, size in spec.max_memory.items() if device.isdigit() == on_gpu]


def _cpus(resources: ResourceRequirements) -> int | None:
    try:
        return math.ceil(parse_quantity(resources.limits["cpu"])) or None
    except (KeyError, InvalidQuantity):
        return None
