"""LoRA adapters of a model: what pods are told of them, and the names `MODEL:ADAPTER` by which requests ask. Pure."""

from collections.abc import Sequence

import msgspec

from ams_common.outside import read_json

SEPARATOR = ":"
LINKS = "adapters"  # folder of links to them, beside that to the weights
RANK_FILE = "max-lora-rank"  # beside them: the highest rank, as the engine is told it
RANK_WORD = "{max-lora-rank}"  # what stands for it in a command that is written before the adapters are there


class AdapterSettings(msgspec.Struct, frozen=True, omit_defaults=True):
    """An adapter as a pod's setting has it: `lock` is sha256 by file, empty where nothing is pinned."""

    name: str
    source: str
    lock: dict[str, str] = {}


def adapter_id(model: str, adapter: str) -> str:
    """What requests call an adapter of a model; the model itself where `adapter` is empty."""
    return f"{model}{SEPARATOR}{adapter}" if adapter else model


def split_id(name: str) -> tuple[str, str]:
    """(model, adapter) of a name as requests have it; the adapter is empty where it names none."""
    model, separator, adapter = name.rpartition(SEPARATOR)
    return (model, adapter) if separator else (name, "")


def link_name(adapter: str, *, gguf: bool) -> str:
    """Of the link to an adapter, below the folder of links."""
    return f"{LINKS}/{adapter}.gguf" if gguf else f"{LINKS}/{adapter}"


def parse_adapters(text: str) -> tuple[AdapterSettings, ...]:
    """The setting, a JSON list. InvalidJson if it is none."""
    return tuple(read_json(text, list[AdapterSettings])) if text.strip() else ()


def adapters_text(adapters: Sequence[AdapterSettings]) -> str:
    """The setting; empty for none."""
    return msgspec.json.encode(adapters).decode() if adapters else ""
