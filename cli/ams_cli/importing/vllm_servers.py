"""vLLM's options that are about other pods or other weights: groups of pods, prefill apart, and LoRA adapters."""

import json
import re
from collections.abc import Callable, Sequence

from ams_common.resource.rules import ADAPTER

from ams_cli.importing.results import Draft, NotImported
from ams_cli.importing.words import Option, options

_TRANSFER = "--kv-transfer-config"
_HANDS_OVER = re.compile(r"(?:Nixl|P2pNccl|Mooncake)\w*Connector")  # from pods that read prompts to others
_NODES = ("--nnodes", "--node-rank", "--master-addr", "--master-port", "--headless", "--distributed-executor-backend")
COPIES = "each replica has one copy of the weights here, on all its GPUs: set replicas, and fewer GPUs for each"
_LORA_ROOM = ("--max-loras", "--max-lora-rank", "--max-cpu-loras")

Sources = Callable[[str, str], str]
"""Reads a model's name, and where it is written, as a source; NotImported says why it is none."""


def ours(draft: Draft, words: Sequence[str], where: str, nodes: int, source: Sources) -> list[str]:
    """vLLM's words without what is of groups of pods, which have `nodes`; adapters become fields.

    NotImported of a server that only reads prompts for others.
    """
    rest: list[str] = []
    room: list[str] = []
    enabled = False
    for option in options(words):
        at = f"{where} {option.name}"
        match option.name:
            case "":
                draft.lose(f"{where} {option.value}", "belongs to no option")
            case "--lora-modules":
                _adapters(draft, option, at, source)
            case name if name in _LORA_ROOM:
                room += option.words
            case "--enable-lora":
                enabled = True
            case name if name in _NODES and (nodes > 1 or option.name != "--distributed-executor-backend"):
                draft.say(at, "not needed: processes of a group find each other; engine.nodes is how many there are")
            case "--pipeline-parallel-size" | "-pp" if option.value == str(nodes):
                draft.say(at, "not needed: it is the number of nodes")
            case name if name == _TRANSFER:
                if (role := _role(option.value)) == "kv_producer":
                    raise NotImported(
                        f"{at} ({role}): prompts are read by the pods that answer: count these replicas in there"
                    )
                if role == "kv_consumer" or not role or _HANDS_OVER.search(option.value):
                    draft.lose(at, "of pods for prefill, which are not separate here")
                else:
                    rest += option.words
            case "--data-parallel-size" | "-dp" | "--data-parallel-size-local" | "--data-parallel-backend":
                if option.value != "1":
                    draft.lose(f"{at} ({option.value})", COPIES)
            case "--config":
                draft.lose(f"{at} ({option.value})", "what that file says isn't read: write it out as arguments")
            case _:
                rest += option.words
    if draft.get("adapters"):
        draft.set("engine.args", [*(draft.get("engine.args") or []), *room])
    elif room or enabled:
        draft.lose(f"{where} --enable-lora", "name adapters in spec.adapters: room is made for them")
    return rest


def _adapters(draft: Draft, option: Option, at: str, read: Sources) -> None:
    """`name=path` and JSON of name and path."""
    found = list(draft.get("adapters") or [])
    for text in option.values:
        name, _, path = text.partition("=")
        if text.startswith("{"):
            try:
                entry = json.loads(text)
            except (ValueError, RecursionError):
                entry = None
            name, path = (str(entry.get(key, "")) for key in ("name", "path")) if isinstance(entry, dict) else ("", "")
        try:
            source = read(path, at)
        except NotImported as error:
            draft.lose(f"{at} {name}", str(error))
            continue
        if re.fullmatch(ADAPTER.removeprefix("^").removesuffix("$"), name) is None:
            draft.lose(f"{at} {name}", "its name can't be an adapter's here: name it in spec.adapters by another")
            continue
        found.append({"name": name, "source": source})
        draft.say(f"{at} {name}", f"clients ask for it as MODEL:{name} here, instead of {name}")
    draft.set("adapters", found)


def _role(text: str) -> str:
    found = re.search(r'"kv_role"\s*:\s*"(\w+)"', text)
    return found[1] if found else ""
