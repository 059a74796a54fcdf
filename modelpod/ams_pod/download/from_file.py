"""A model of this machine: `file:///folder`, used where it is, or one GGUF file, converted once."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ams_common.hub_files import INDEX, RemoteFile, choose_adapter_files, choose_files
from ams_common.lifecycle import Phase
from ams_common.reasons import Reason
from ams_common.source import FileSource

from ams_pod.download.convert import convert, describe
from ams_pod.download.failures import Failed
from ams_pod.download.jobs import Context
from ams_pod.download.lease import FolderLease
from ams_pod.download.manifest import hash_file
from ams_pod.download.partial import Partial
from ams_pod.download.plan import check_lock
from ams_pod.download.signature import Signer, read_signature
from ams_pod.layout import converted_folder, inside, local_gguf


@dataclass(frozen=True, slots=True)
class GgufJob:
    """Converts one GGUF file, which stays where it is."""

    gguf: Path
    folder: Path
    revision: str = ""
    converts: bool = True

    @property
    def source(self) -> str:
        return f"file://{self.gguf}"

    def fill(self, partial: Partial, lease: FolderLease, context: Context) -> None:
        if context.signer is not None:
            self._copy_signature(context.signer, partial)
        if partial.has_files(besides=context.signature_path):
            return
        size = self.gguf.stat().st_size
        context.tracker.begin(Phase.VERIFYING, message=self.gguf.name, total=size)
        sha256 = hash_file(self.gguf, context.tracker.add)
        check_lock(context.lock, {self.gguf.name: sha256})
        if context.signer is not None:
            context.signer.check(read_signature(partial.place(context.signer.path)), {self.gguf.name: sha256})
        partial.record_input(self.gguf, sha256)
        if context.keeps_gguf:  # it stays where it is
            describe(self.gguf, partial, lease, context.tracker)
        else:
            convert(self.gguf, partial, lease, context.tracker)

    def _copy_signature(self, signer: Signer, partial: Partial) -> None:
        source, target = inside(self.gguf.parent, signer.path), partial.place(signer.path)
        if not source.is_file():
            raise signer.missing(f"file://{self.gguf.parent}")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(read_signature(source))
        partial.record({signer.path: hash_file(target)})


def gguf_job(source: FileSource, context: Context) -> GgufJob | None:
    """The conversion that the source needs; None for a folder. Failed (ModelNotFound) if the file isn't there."""
    if (gguf := local_gguf(source)) is None:
        return None
    if not gguf.is_file():
        raise Failed(Reason.MODEL_NOT_FOUND, f"{gguf} is not a file on this machine.")
    return GgufJob(gguf, context.folder_of(converted_folder(context.models_dir, gguf), source))


def check_folder(source: FileSource, context: Context) -> Path:
    """A folder that is used in place: it must hold a model, and what is locked and signed. Failed otherwise."""
    folder = Path(source.path)
    if source.file is not None:
        raise Failed(Reason.INVALID_SOURCE, f"file://{folder}: ?file= names a GGUF file, and {source.file!r} is none.")
    if not folder.is_dir():
        what = "is not a folder or a GGUF file" if folder.exists() else "doesn't exist on this machine"
        raise Failed(Reason.MODEL_NOT_FOUND, f"{folder} {what}.")
    paths = [path for path in (*folder.iterdir(), *folder.glob("additional_chat_templates/*")) if path.is_file()]
    listing = [RemoteFile(path.relative_to(folder).as_posix(), path.stat().st_size) for path in paths]
    index = (folder / INDEX).read_bytes() if (folder / INDEX).is_file() else None
    if (path := context.signature_path) is not None and "/" in path and (folder / path).is_file():
        listing.append(RemoteFile(path, (folder / path).stat().st_size))
    chosen = choose_files(
        listing,
        where=f"file://{folder}",
        gguf=None,
        index=index,
        allow_pickle=context.allow_pickle,
        signature=context.signature_path,
    )
    _check(folder, chosen, context)
    return folder


def check_adapter(source: FileSource, context: Context) -> Path:
    """As `check_folder`, of a LoRA adapter; the folder that its files are in."""
    gguf = local_gguf(source)
    folder = gguf.parent if gguf is not None else Path(source.path)
    if gguf is not None and not gguf.is_file():
        raise Failed(Reason.MODEL_NOT_FOUND, f"{gguf} is not a file on this machine.")
    if not folder.is_dir():
        raise Failed(Reason.MODEL_NOT_FOUND, f"{folder} is not a folder on this machine.")
    listing = [RemoteFile(path.name, path.stat().st_size) for path in folder.iterdir() if path.is_file()]
    if (path := context.signature_path) is not None and "/" in path and (folder / path).is_file():
        listing.append(RemoteFile(path, (folder / path).stat().st_size))
    name = gguf.name if gguf is not None else None
    chosen = choose_adapter_files(listing, where=f"file://{folder}", gguf=name, signature=context.signature_path)
    _check(folder, chosen, context)
    return folder


def _check(folder: Path, chosen: Sequence[RemoteFile], context: Context) -> None:
    """Whether the files are those that are locked and signed. Failed, OSError."""
    unread: dict[str, str | None] = dict.fromkeys((file.path for file in chosen), None)
    check_lock(context.lock, unread)
    if context.signer is not None:
        content = read_signature(folder / context.signer.path)
        context.signer.check(content, unread)
    hashed = [file for file in chosen if context.signer is not None or file.path in context.lock]
    if hashed:
        context.tracker.begin(Phase.VERIFYING, total=sum(file.size or 0 for file in hashed))
        digests = {file.path: hash_file(folder / file.path, context.tracker.add) for file in hashed}
        check_lock(context.lock, digests)
        if context.signer is not None:
            context.signer.check(content, digests)
