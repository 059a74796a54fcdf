"""LoRA adapters of a model: what pods are told of them, and the names `MODEL:ADAPTER` by which requests ask. Pure."""

import hashlib
from collections.abc import Sequence

import msgspec

from ams_common.outside import read_json
from ams_common.progress import Failure
from ams_common.resource.status import LockStatus

SEPARATOR = ":"
LINKS = "adapters"  # folder of links to them, beside that to the weights
RANK_FILE = "max-lora-rank"  # beside them: the highest rank, as the engine is told it
RANK_WORD = "{max-lora-rank}"  # what stands for it in a command that is written before the adapters are there
STATE_FILE = "state.json"  # beside them: which adapters of a list that changes are there, an `AdapterStates`
LIST_FILE = "adapters.json"  # the list that changes, as the setting has it: a file of the volume that brings it
MOST_ADAPTERS = 32  # of one model


class AdapterSettings(msgspec.Struct, frozen=True, omit_defaults=True):
    """An adapter as a pod's setting has it: `lock` is sha256 by file, empty where nothing is pinned."""

    name: str
    source: str
    lock: dict[str, str] = {}


class AdapterState(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of one adapter of the list. `asked` is `asked_digest` of its entry.

    `path` is the folder that an engine loads, `version` tells its bytes from others', `rank` is that of its matrices
    and `lock` that of its files; all empty where it couldn't be fetched. With `failure` they are those that were asked
    for before, which stay as long as what is asked for now can't be had.
    """

    name: str
    asked: str
    path: str = ""
    version: str = ""
    rank: int = 0
    lock: LockStatus | None = None
    failure: Failure | None = None


class AdapterStates(msgspec.Struct, frozen=True):
    """The content of `STATE_FILE`, in the order of the list."""

    adapters: list[AdapterState]


def asked_digest(adapter: AdapterSettings) -> str:
    """Tells an entry of the list from another one of its name: 16 hexadecimal digits of its source and lock."""
    return hashlib.sha256(msgspec.json.encode([adapter.source, sorted(adapter.lock.items())])).hexdigest()[:16]


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
