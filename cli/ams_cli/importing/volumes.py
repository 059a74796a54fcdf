"""The volumes of a container: where a path in it lies outside."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal
from urllib.parse import quote

from ams_cli.importing.results import NotImported

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

Kind = Literal["claim", "host", "volume", "scratch", "other"]


@dataclass(frozen=True, slots=True)
class Mount:
    """A folder of a container. `outside` is the claim, the folder of the machine, or the volume that it is of."""

    inside: str
    kind: Kind
    outside: str
    folder: str = ""  # in the volume


def mount_of(path: str, mounts: Sequence[Mount]) -> Mount | None:
    """The mount that a path lies in."""
    around = [each for each in mounts if _below(path, each.inside) is not None]
    return max(around, key=lambda each: len(each.inside), default=None)


def source_at(path: str, mounts: Sequence[Mount], where: str) -> str:
    """The source of weights at a path of a container; NotImported says why nobody else can read them."""
    found = mount_of(path, mounts)
    if found is None:
        raise NotImported(
            f"{where} ({path}): is in the image, or comes there before the engine starts: name the model of the hub, "
            "or copy the weights onto a volume, as pvc://claim/path"
        )
    rest = "/".join(part for part in (found.folder.strip("/"), _below(path, found.inside)) if part)
    match found.kind:
        case "claim":
            return f"pvc://{found.outside}/{quote(rest)}".rstrip("/")
        case "host":
            return f"file://{quote(str(PurePosixPath(found.outside) / rest))}"
        case _:
            raise NotImported(
                f"{where} ({path}): is in {found.outside}, which no pod of ours has: name the model of the hub, or "
                "copy the weights onto a volume, as pvc://claim/path"
            )


def model_source(text: str, where: str, mounts: Sequence[Mount]) -> str:
    """A model's name, or the path of its weights in a container, as a source; NotImported says why it is none."""
    if text.startswith("/"):
        return source_at(text, mounts, where)
    name = text.removeprefix("hf://")
    if _HUB_NAME.fullmatch(name):
        return f"hf://{name}"
    if (named := re.search(r"\$[({]?(\w+)", text)) is not None:
        raise NotImported(f"{where} ({text}): the value of {named[1]} isn't told among the files: write it out")
    if "://" in text:
        raise NotImported(f"{where} ({text}): not a source; known are hf://owner/name and pvc://claim/path")
    raise NotImported(f"{where} ({text}): neither owner/name of the hub nor an absolute path")


def _below(path: str, folder: str) -> str | None:
    """The path as seen from a folder; None outside of it."""
    folder = folder.rstrip("/")
    if path.rstrip("/") == folder:
        return ""
    return path[len(folder) + 1 :].rstrip("/") if folder and path.startswith(f"{folder}/") else None
