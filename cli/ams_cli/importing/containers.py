"""A container that runs a known server, as a draft: its words, its variables and its volumes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote

from ams_cli.importing import (
    hub_servers,
    llamacpp_options,
    server_variables,
    sglang_options,
    vllm_options,
    vllm_servers,
)  # fmt: skip
from ams_cli.importing.llama_swap_commands import as_variables
from ams_cli.importing.results import Draft, NotImported
from ams_cli.importing.servers import TEI, TGI, Server
from ams_cli.importing.unserved import refuse
from ams_cli.importing.volumes import Mount, model_source, source_at
from ams_cli.importing.words import options


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where a server's words are written, its variables as in core/v1, its mounts, GPUs and nodes."""

    where: str
    variables: Sequence[Any] = ()
    mounts: Sequence[Mount] = ()
    gpus: int = 0
    nodes: int = 1
    image: str = ""

    def source(self, text: str, where: str) -> str:
        """A model's name, or a path in the container, as a source; NotImported says why it is none."""
        return model_source(text, where, self.mounts)


def serve(draft: Draft, server: Server, around: Surroundings) -> int:
    """Put a server's words and variables into fields; how many GPUs share the weights, 0 where that isn't told.

    NotImported says why the model can't be served here.
    """
    refuse(server, around.variables)
    for each in server.by:
        draft.lose(f"{around.where}: {each}", "what starts the server, or runs before it, has no place here")
    variables = [*around.variables, *as_variables(dict(server.variables))]
    values = dict(server_variables.values(variables))
    words = list(server.arguments)
    shards = 0
    if server.engine in (TGI, TEI):
        draft.set("engine.name", "auto")
        # An option counts more than its variable, so it comes last.
        words = [*hub_servers.from_variables(values), *words]
        shards = hub_servers.apply(draft, server.engine, words, around.where, around.source)
    else:
        draft.set("engine.name", server.engine)
        draft.set("engine.image", around.image)
        match server.engine:
            case "llamacpp":
                _llamacpp(draft, [*server_variables.llama_options(values), *words], around)
            case "sglang":
                sglang_options.apply(draft, _models(draft, words, around), around.where, around.gpus * around.nodes)
            case _:
                ours = vllm_servers.ours(
                    draft, _models(draft, words, around), around.where, around.nodes, around.source
                )
                vllm_options.apply(draft, ours, around.where, around.gpus)
        if draft.get("model.source") is None:
            raise NotImported(f"{around.where}: names no model")
        shards = _shards(words)
        if server.engine != "llamacpp" and around.gpus > 1 and not shards:
            draft.say(
                "resources.limits",
                f"the weights are on all {around.gpus} GPUs here; without an option they are on one there",
            )
    server_variables.apply(draft, server.engine, variables)
    _without_mounts(draft, around)
    return shards


def _models(draft: Draft, words: Sequence[str], around: Surroundings) -> list[str]:
    """The words without the model, which is set; clients go on calling it as the server does."""
    rest: list[str] = []
    text, named = "", False
    for option in options(words):
        if option.name in ("--model", "--model-path") and option.value:
            text = option.value
            draft.set("model.source", around.source(text, f"{around.where} {option.name}"))
            rest += option.values[1:]
        else:
            named = named or option.name == "--served-model-name"
            rest += option.words
    if text and not named:
        draft.aliases.append(text.lstrip("/"))
    return rest


def _llamacpp(draft: Draft, words: Sequence[str], around: Surroundings) -> None:
    llamacpp_options.apply(draft, words, around.where, PurePosixPath("/"))
    source = draft.get("model.source")
    if isinstance(source, str) and source.startswith("file://"):
        draft.set("model.source", source_at(unquote(source.removeprefix("file://")), around.mounts, around.where))


def _shards(words: Sequence[str]) -> int:
    sizes = ("--tensor-parallel-size", "-tp", "--tp", "--tp-size")
    found = [option.value for option in options(words) if option.name in sizes]
    return next((int(each) for each in found if re.fullmatch(r"[1-9][0-9]{0,2}", each)), 0)


def _without_mounts(draft: Draft, around: Surroundings) -> None:
    """Take out arguments that name a path of a volume, which no pod of ours has."""
    inside = [
        each.inside.rstrip("/") for each in around.mounts if each.inside.rstrip("/") not in ("", "/dev/shm", "/tmp")
    ]
    args = draft.get("engine.args")
    if not args or not inside:
        return
    kept: list[str] = []
    paths = re.compile(rf"""(?:^|[=,:"'\s])(?:{"|".join(map(re.escape, inside))})(?:$|[/,"'\s])""")
    for option in options(args):
        if any(paths.search(word) for word in option.words):
            draft.lose(f"{around.where} {option.name}", "names a path in a volume, which no pod of ours has")
        else:
            kept += option.words
    draft.spec["engine"]["args"] = kept
    if not kept:
        del draft.spec["engine"]["args"]
