"""LoRA adapters beside the weights: fetched as they are, and held against the model that they are for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ams_common.adapters import AdapterSettings, parse_adapters
from ams_common.engines import vllm
from ams_common.engines.names import EngineName
from ams_common.hub_files import UnusableFiles
from ams_common.outside import InvalidJson
from ams_common.reasons import Reason
from ams_common.source import InvalidSource, Source, parse_source

from ams_pod.download.adapter_check import WrongAdapter, check_gguf, check_peft
from ams_pod.download.failures import Failed
from ams_pod.download.fetching import Fetching
from ams_pod.download.plan import parse_lock_files
from ams_pod.layout import gguf_of, inside

_READS_GGUF: tuple[EngineName, ...] = ("llamacpp",)
_READS_PEFT: tuple[EngineName, ...] = ("vllm", "sglang")
_LEAST_ROOM = 16  # for matrices of adapters that aren't known yet, as vLLM has it by itself


@dataclass(frozen=True, slots=True)
class FetchedAdapter:
    """`folder` is where its files lie, `path` what an engine loads: that folder, or the GGUF file in it."""

    name: str
    folder: Path
    path: Path
    rank: int


def read_settings(text: str, engine: EngineName) -> tuple[AdapterSettings, ...]:
    """The setting, where this engine can load adapters. Failed."""
    try:
        adapters = parse_adapters(text)
    except InvalidJson as error:
        raise Failed(Reason.INVALID_SOURCE, f"The setting adapters can't be read: it {error}.") from None
    if adapters and engine not in _READS_GGUF + _READS_PEFT:
        raise Failed(Reason.INVALID_SOURCE, f"The engine {engine} loads no adapters; take vllm, sglang or llamacpp.")
    return adapters


def fetch_adapters(adapters: Sequence[AdapterSettings], fetching: Fetching, model: Path) -> list[FetchedAdapter]:
    """All of them, in their order. `model` is what the engine loads, a folder or a GGUF file. Failed, OSError."""
    return [fetch_adapter(adapter, fetching, model) for adapter in adapters]


def highest_rank(adapters: Sequence[FetchedAdapter], engine: EngineName) -> int | None:
    """The rank that the engine has to be told; None for one that needs none."""
    if engine != "vllm" or not adapters:
        return None
    return vllm.lora_rank(max(each.rank for each in adapters))


def rank_to_make_room_for(ranks: Sequence[int], engine: EngineName) -> int:
    """What an engine is told that is to take further adapters, beside those of these ranks."""
    highest = max([_LEAST_ROOM, *ranks])
    return (vllm.lora_rank(highest) or vllm.HIGHEST_LORA_RANK) if engine == "vllm" else highest


def fetch_adapter(adapter: AdapterSettings, fetching: Fetching, model: Path) -> FetchedAdapter:
    """One of them. Failed, OutsideRoot, OSError."""
    context = fetching.context
    try:
        source = _source(adapter, context.engine)
        lock = parse_lock_files(adapter.lock, f"the lock of the adapter {adapter.name}")
        own = replace(fetching, context=replace(context, lock=lock, adapter=True))
        folder = own.folder(source, adapter.source)
        name = gguf_of(source)
        path = folder if name is None else inside(folder, name) if not Path(name).is_absolute() else Path(name)
        rank = check_peft(path, model, context.engine) if name is None else check_gguf(path, model)
        if context.engine == "vllm" and vllm.lora_rank(rank) is None:
            raise WrongAdapter(f"has rank {rank}, and vLLM takes at most {vllm.HIGHEST_LORA_RANK}")
    except WrongAdapter as error:
        raise Failed(Reason.INVALID_SOURCE, f"The adapter {adapter.name} {error}.") from None
    except UnusableFiles as error:
        raise Failed(Reason(error.failure.reason), f"The adapter {adapter.name}: {error}") from None
    except Failed as error:
        told = error.failure
        raise Failed(Reason(told.reason), f"The adapter {adapter.name}: {error}", retryable=told.retryable) from None
    return FetchedAdapter(adapter.name, folder, path, rank)


def _source(adapter: AdapterSettings, engine: EngineName) -> Source:
    try:
        source = parse_source(adapter.source)
    except InvalidSource as error:
        raise Failed(Reason.INVALID_SOURCE, f"{error}.") from None
    if (gguf_of(source) is not None) != (engine in _READS_GGUF):
        wanted = "a GGUF file, named by ?file=" if engine in _READS_GGUF else "a folder as PEFT writes it"
        raise Failed(Reason.INVALID_SOURCE, f"{adapter.source} is not what {engine} reads: {wanted}.")
    return source
