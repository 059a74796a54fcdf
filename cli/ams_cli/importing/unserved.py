"""Servers whose models can't be had from anywhere that is a source: Ollama and NVIDIA NIM."""

import re
from collections.abc import Sequence
from typing import Any

from ams_cli.importing.results import NotImported
from ams_cli.importing.server_variables import values
from ams_cli.importing.servers import NIM, OLLAMA, Server

_OLLAMA_MODEL = re.compile(r"\bollama (?:pull|run|create) ([\w./:-]+)")


def refuse(server: Server, variables: Sequence[Any] = (), more: str = "") -> None:
    """NotImported of servers whose models can't be had; `more` is text of the document that may name them."""
    if server.engine == NIM:
        raise NotImported(
            "NVIDIA NIM: its weights come in the image or from NGC under its licence: name the model of the hub, "
            "as hf://owner/name"
        )
    if server.engine == OLLAMA:
        text = " ".join([*server.arguments, *(value for _, value in values(variables)), more])
        named = sorted(set(_OLLAMA_MODEL.findall(f"ollama {text}")))
        raise NotImported(_of_ollama(named))


def _of_ollama(names: Sequence[str]) -> str:
    of_hub = [each.split("/", 1)[1] for each in names if each.startswith(("hf.co/", "huggingface.co/"))]
    if of_hub:
        name, _, kind = of_hub[0].partition(":")
        file = f"the GGUF file of {kind or 'the kind that you want'} in it"
        return f"Ollama: {', '.join(names)} is of the hub: hf://{name}?file=..., {file}"
    what = (
        f"{', '.join(names)} of its registry"
        if names
        else "its models are pulled from its own registry as it runs, and"
    )
    return (
        f"Ollama: {what} can't be a source: name the same GGUF file on the hub, as in "
        "hf://owner/name-GGUF?file=name-Q4_K_M.gguf"
    )
