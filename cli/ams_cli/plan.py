"""`ams plan`: what each model needs, and whether it fits. Pure: previews and places in, rows out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
from ams_common.engines.names import EngineName
from ams_common.fit import DeviceMemory
from ams_common.memory_offers import MemoryOffer, MemoryOffers, best_fit, needs_for
from ams_common.quantity import format_bytes, format_count
from ams_common.resource.spec import ModelDeployment, Spec
from ams_kube.node_memory import declared_memory, memory_offers
from ams_kube.objects import Node

from ams_cli import engines
from ams_cli.local import gpus_wanted, over_nodes
from ams_cli.preview import Preview

_NO_ENGINES = engines.Machine({})
_WORDS = {"none": "unquantized", "8bit": "8-bit", "4bit": "4-bit"}


@dataclass(frozen=True, slots=True)
class Machine:
    """This one: free bytes of its memory, None if unknown, and of each GPU that tells."""

    ram_free: int | None
    gpu_free: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Places:
    """Where models may run: the offers for each, and the machine if they all share one."""

    offers_for: Callable[[ModelDeployment], MemoryOffers]
    machine: Machine | None = None


def on_machine(machine: Machine) -> Places:
    """A GPU where one is asked for and there, else the CPU, as `ams up` does."""

    def offers(resource: ModelDeployment) -> MemoryOffers:
        declared = declared_memory(resource.spec)
        gpus = machine.gpu_free if gpus_wanted(resource.spec.resources) else ()
        if declared.gpus:
            gpus = tuple(min(pair) for pair in zip(gpus, declared.gpus, strict=False))
        known = [size for size in (machine.ram_free, declared.ram) if size is not None]
        ram = min(known) if known else None
        if not gpus and ram is None:
            return MemoryOffers(unknown="This machine doesn't tell its memory.")
        return MemoryOffers((MemoryOffer("this machine", DeviceMemory(gpus, ram)),))

    return Places(offers, machine)


def on_nodes(nodes: Sequence[Node]) -> Places:
    """The nodes of a cluster, as the operator's preflight sees them."""
    return Places(lambda resource: memory_offers(resource, nodes))


class PlanRow(msgspec.Struct, frozen=True, kw_only=True):
    """One model of the plan. Bytes are None where unknown; `fits` also."""

    name: str
    source: str
    family: str | None
    engine: str = "builtin"
    engine_reason: str = ""
    adapters: list[str] = []
    parameters: int | None
    download_bytes: int | None
    converted_bytes: int = 0  # that converting a GGUF file will write
    disk_bytes: int | None
    memory_bytes: dict[str, int] = {}  # by quantization, cache and headroom included
    device: str = ""
    quantization: str | None = None
    fits: bool | None = None
    verdict: str = ""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """All models. `disk_fits` tells whether everything that is missing fits the models folder at once, with what
    converting GGUF files writes, `converted_bytes`.

    `memory_bytes` is what those take together that fit, of the `memory_free_bytes` of this machine.
    """

    models: list[PlanRow]
    memory_bytes: int
    memory_free_bytes: int | None
    download_bytes: int
    converted_bytes: int = 0
    disk_free_bytes: int | None
    disk_fits: bool | None


def make_plan(
    previews: Sequence[Preview], places: Places, disk_free: int | None, has: engines.Machine = _NO_ENGINES
) -> Plan:
    rows = [_row(preview, places, has) for preview in previews]
    download = sum(row.download_bytes or 0 for row in rows)
    converted = sum(row.converted_bytes for row in rows)
    fits = None if disk_free is None else download + converted <= disk_free
    memory = sum(row.memory_bytes[row.quantization] for row in rows if row.fits and row.quantization)
    free = None
    if (machine := places.machine) is not None:
        free = machine.gpu_free[0] if any(row.device == "cuda" for row in rows) else machine.ram_free
    return Plan(
        models=rows,
        memory_bytes=memory,
        memory_free_bytes=free,
        download_bytes=download,
        converted_bytes=converted,
        disk_free_bytes=disk_free,
        disk_fits=fits,
    )


def _row(preview: Preview, places: Places, has: engines.Machine) -> PlanRow:
    resource, size = preview.resource, preview.size
    choice = engines.choose(preview, has)
    larger = over_nodes(resource) if has.certain else []
    refused = "; ".join(larger or engines.refusals(preview, choice, has))
    row = PlanRow(
        name=resource.metadata.name,
        source=resource.spec.model.source,
        family=preview.family.name if preview.family else None,
        engine=choice.name,
        engine_reason=choice.reason,
        adapters=[each.name for each in resource.spec.adapters],
        parameters=_parameters(preview),
        download_bytes=preview.missing_bytes,
        converted_bytes=preview.converted_bytes,
        disk_bytes=preview.total_bytes,
    )
    problem = preview.problem or refused or (preview.unsupported if choice.name == "builtin" else "")
    if problem:
        return msgspec.structs.replace(row, fits=False, verdict=problem)
    if preview.unknown:
        return msgspec.structs.replace(row, verdict=f"unknown: {preview.unknown}")
    if size is None:
        return msgspec.structs.replace(row, verdict="its size is known once it is downloaded")
    spec = _spec_for(resource.spec, choice.name)
    needs = needs_for(spec, size)
    row = msgspec.structs.replace(row, memory_bytes={need.quantization: need.total_bytes for need in needs})
    offers = places.offers_for(resource)
    if not offers.options:
        return msgspec.structs.replace(row, verdict=offers.unknown)
    offer, fit = best_fit(spec, size, offers.options)
    device = "cuda" if offer.memory.gpus else "cpu"
    needs = tuple(need.on(device) for need in needs)
    verdict = f"{'fits' if fit.fits else 'does not fit'} {offer.place}: {fit.reason}"
    if not fit.fits and min(need.cache_bytes for need in needs) > min(need.weights_bytes for need in needs):
        verdict += "; limits.contextTokens × concurrentRequests is what the cache is for"
    return msgspec.structs.replace(
        row,
        device=device,
        memory_bytes={need.quantization: need.total_bytes for need in needs},
        quantization=fit.chosen,
        fits=fit.fits,
        verdict=verdict,
    )


def _spec_for(spec: Spec, engine: EngineName) -> Spec:
    """What is to fit: engines of other makes take weights as they come, and most share one cache out themselves."""
    if engine == "builtin":
        return spec
    spec = msgspec.structs.replace(spec, quantization="none")
    if engine in ("vllm", "sglang"):
        return msgspec.structs.replace(spec, limits=msgspec.structs.replace(spec.limits, concurrent_requests=1))
    return spec


def _parameters(preview: Preview) -> int | None:
    """None where they can't be counted: bytes tell nothing of weights that come quantized."""
    size = preview.size
    if size is None or (size.quantized_by is not None and size.grouped is None and preview.counted_parameters is None):
        return None
    return size.parameters


def lines(plan: Plan) -> list[tuple[str, ...]]:
    """A table: heading and rows of cells."""

    def size(count: int | None) -> str:
        return "?" if count is None else format_bytes(count)

    table: list[tuple[str, ...]] = [
        ("MODEL", "FAMILY", "ENGINE", "PARAMETERS", "DOWNLOAD", "DISK", "UNQUANTIZED", "8-BIT", "4-BIT", "CHOICE")
    ]
    for row in plan.models:
        download = "there" if row.download_bytes == 0 else size(row.download_bytes)
        memory = [size(row.memory_bytes.get(name)) for name in ("none", "8bit", "4bit")]
        choice = "?" if row.quantization is None else f"{_WORDS[row.quantization]} on {row.device}"
        table.append(
            (
                row.name,
                row.family or "?",
                row.engine,
                "?" if row.parameters is None else format_count(row.parameters),
                download,
                size(row.disk_bytes),
                *memory,
                choice if row.fits is not False else "does not fit" if row.memory_bytes else "can't be served",
            )
        )
    return table


def remarks(plan: Plan, folder: str) -> list[str]:
    """A sentence for each model and one for the disk."""
    result = [f"{row.name}: {row.verdict}" for row in plan.models if row.verdict]
    result += [f"{row.name}: engine {row.engine}: {row.engine_reason}" for row in plan.models if row.engine_reason]
    result += [
        f"{row.name}: adapters {', '.join(row.adapters)} come on top: their sizes aren't asked for"
        for row in plan.models
        if row.adapters
    ]
    if any(row.memory_bytes for row in plan.models):
        result.append(
            "Memory: the weights, a cache for limits.concurrentRequests × contextTokens, and 10 % for the rest"
        )
    if plan.memory_free_bytes is not None and plan.memory_bytes > plan.memory_free_bytes:
        result.append(
            f"Not all at once: together they take {format_bytes(plan.memory_bytes)} of "
            f"{format_bytes(plan.memory_free_bytes)}; `ams up` stops the least recently used for another one"
        )
    if plan.disk_free_bytes is not None:
        free, wanted = format_bytes(plan.disk_free_bytes), format_bytes(plan.download_bytes)
        fits = "fits" if plan.disk_fits else "does not fit"
        unknown = [row.name for row in plan.models if row.download_bytes is None]
        if len(unknown) == len(plan.models):
            result.append(f"Download: of unknown size, into {folder}, which has {free} free")
        else:
            least = "at least " if unknown else ""
            if plan.converted_bytes:
                made = format_bytes(plan.converted_bytes)
                wanted, fits = f"{wanted} and {made} of converted GGUF files", "fit" if plan.disk_fits else "don't fit"
            result.append(f"Download: {least}{wanted} {fits} {folder}, which has {free} free")
    return result
