"""A model of this machine: `file:///folder`, used where it is, or one GGUF file, converted once."""

from dataclasses import dataclass
from pathlib import Path

from ams_common.hub_files import INDEX, RemoteFile, choose_files
from ams_common.lifecycle import Phase
from ams_common.reasons import Reason
from ams_common.source import FileSource

from ams_pod.download.convert import convert
from ams_pod.download.failures import Failed
from ams_pod.download.jobs import Context
from ams_pod.download.lease import FolderLease
from ams_pod.download.manifest import hash_file
from ams_pod.download.partial import Partial
from ams_pod.download.plan import check_lock
from ams_pod.layout import converted_folder, local_gguf


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
        if partial.has_files():
            return
        size = self.gguf.stat().st_size
        context.tracker.begin(Phase.VERIFYING, message=self.gguf.name, total=size)
        sha256 = hash_file(self.gguf, context.tracker.add)
        check_lock(context.lock, {self.gguf.name: sha256})
        partial.record_input(self.gguf, sha256)
        convert(self.gguf, partial, lease, context.tracker)


def gguf_job(source: FileSource, context: Context) -> GgufJob | None:
    """The conversion that the source needs; None for a folder. Failed (ModelNotFound) if the file isn't there."""
    if (gguf := local_gguf(source)) is None:
        return None
    if not gguf.is_file():
        raise Failed(Reason.MODEL_NOT_FOUND, f"{gguf} is not a file on this machine.")
    return GgufJob(gguf, converted_folder(context.models_dir, gguf))


def check_folder(source: FileSource, context: Context) -> Path:
    """A folder that is used in place: it must hold a model, and what the lock pins. Failed otherwise."""
    folder = Path(source.path)
    if source.file is not None:
        raise Failed(Reason.INVALID_SOURCE, f"file://{folder}: ?file= names a GGUF file, and {source.file!r} is none.")
    if not folder.is_dir():
        what = "is not a folder or a GGUF file" if folder.exists() else "doesn't exist on this machine"
        raise Failed(Reason.MODEL_NOT_FOUND, f"{folder} {what}.")
    paths = [path for path in (*folder.iterdir(), *folder.glob("additional_chat_templates/*")) if path.is_file()]
    listing = [RemoteFile(path.relative_to(folder).as_posix(), path.stat().st_size) for path in paths]
    index = (folder / INDEX).read_bytes() if (folder / INDEX).is_file() else None
    chosen = choose_files(listing, where=f"file://{folder}", gguf=None, index=index, allow_pickle=context.allow_pickle)
    if context.lock:
        check_lock(context.lock, dict.fromkeys((file.path for file in chosen), None))
        locked = [file for file in chosen if file.path in context.lock]
        context.tracker.begin(Phase.VERIFYING, total=sum(file.size or 0 for file in locked))
        check_lock(
            context.lock,
            {file.path: hash_file(folder / file.path, context.tracker.add) for file in locked},
        )
    return folder
