"""`ams plan`: what each model needs, and whether it fits. Pure: previews and places in, rows out."""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from ams_common.fit import Fit, Need, choose
from ams_common.quantity import format_bytes

from ams_cli.local import gpus_wanted
from ams_cli.preview import Preview
from ams_cli.weights import needs_of

_WORDS = {"none": "unquantized", "8bit": "8-bit", "4bit": "4-bit"}


@dataclass(frozen=True, slots=True)
class Place:
    """Where models may run: this machine, or a node. `gpu_free` has the free bytes of each GPU, largest first."""

    name: str
    ram_free: int | None
    gpu_free: tuple[int, ...] = ()
    gpus: int = 0  # also those whose memory isn't known


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One model of the plan. Bytes are None where unknown; `fits` also."""

    name: str
    source: str
    family: str | None
    parameters: int | None
    download_bytes: int | None
    disk_bytes: int | None
    memory_bytes: dict[str, int] = {}  # by quantization, cache and headroom included
    device: str = ""
    quantization: str | None = None
    fits: bool | None = None
    verdict: str = ""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """All models. `disk_fits` tells whether everything that is missing fits the models folder at once.

    `memory_bytes` is what those take together that fit, of the `memory_free_bytes` of the only place there is.
    """

    models: list[Row]
    memory_bytes: int
    memory_free_bytes: int | None
    download_bytes: int
    disk_free_bytes: int | None
    disk_fits: bool | None


def make_plan(previews: Sequence[Preview], places: Sequence[Place], disk_free: int | None) -> Plan:
    rows = [_row(preview, places) for preview in previews]
    download = sum(row.download_bytes or 0 for row in rows)
    fits = None if disk_free is None else download <= disk_free
    memory = sum(row.memory_bytes[row.quantization] for row in rows if row.fits and row.quantization)
    free = None
    if len(places) == 1:
        free = places[0].gpu_free[0] if any(row.device == "cuda" for row in rows) else places[0].ram_free
    return Plan(
        models=rows,
        memory_bytes=memory,
        memory_free_bytes=free,
        download_bytes=download,
        disk_free_bytes=disk_free,
        disk_fits=fits,
    )


def _row(preview: Preview, places: Sequence[Place]) -> Row:
    resource = preview.resource
    row = Row(
        name=resource.metadata.name,
        source=resource.spec.model.source,
        family=preview.family.name if preview.family else None,
        parameters=preview.parameters,
        download_bytes=preview.missing_bytes,
        disk_bytes=preview.total_bytes,
    )
    if preview.problem:
        return msgspec.structs.replace(row, fits=False, verdict=preview.problem)
    parameters = preview.parameters
    if parameters is None:
        return msgspec.structs.replace(row, verdict="its size is known once it is downloaded")
    given = needs_of(resource, parameters, preview.config)
    device, where, fit = _best(given, places, gpus_wanted(resource.spec.resources) > 0, resource.spec.quantization)
    if fit is None:
        verdict = "nowhere is memory known"
    else:
        verdict = f"{'fits' if fit.fits else 'does not fit'} {where}: {fit.reason}"
        if not fit.fits and min(need.cache_bytes for need in given) > min(need.weights_bytes for need in given):
            verdict += "; limits.contextTokens × concurrentRequests is what the cache is for"
    return msgspec.structs.replace(
        row,
        memory_bytes={need.quantization: need.total_bytes for need in given},
        device=device,
        quantization=fit.chosen if fit else None,
        fits=fit.fits if fit else None,
        verdict=verdict,
    )


def _best(given: Sequence[Need], places: Sequence[Place], wants_gpu: bool, wanted: str) -> tuple[str, str, Fit | None]:
    """(device, where, choice) on the place with most room; a GPU where one is asked for and there, else the CPU."""
    options: list[tuple[str, str, int]] = []
    if wants_gpu:
        options = [("cuda", f"a GPU of {place.name}", place.gpu_free[0]) for place in places if place.gpu_free]
    if not options:
        options = [("cpu", place.name, place.ram_free) for place in places if place.ram_free is not None]
    if not options:
        return "", "", None
    device, where, free = max(options, key=lambda option: option[2])
    return device, where, choose(given, free, wanted=wanted, device=device)


def lines(plan: Plan) -> list[tuple[str, ...]]:
    """A table: heading and rows of cells."""

    def size(count: int | None) -> str:
        return "?" if count is None else format_bytes(count)

    table: list[tuple[str, ...]] = [
        ("MODEL", "FAMILY", "PARAMETERS", "DOWNLOAD", "DISK", "UNQUANTIZED", "8-BIT", "4-BIT", "CHOICE")
    ]
    for row in plan.models:
        download = "there" if row.download_bytes == 0 else size(row.download_bytes)
        memory = [size(row.memory_bytes.get(name)) for name in ("none", "8bit", "4bit")]
        choice = "?" if row.quantization is None else f"{_WORDS[row.quantization]} on {row.device}"
        table.append(
            (
                row.name,
                row.family or "?",
                "?" if row.parameters is None else short_number(row.parameters),
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
        result.append(f"Download: {wanted} {fits} {folder}, which has {free} free")
    return result


def short_number(count: int) -> str:
    """3_754_622_976 as 3.75B."""
    for unit, size in (("T", 10**12), ("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)
