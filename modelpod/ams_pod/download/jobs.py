"""From a source to a published folder: look, take the lease, fill, verify, publish."""

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ams_common.engines.names import EngineName
from ams_common.lifecycle import Phase
from ams_common.source import Source

from ams_pod.download.lease import Contender, FolderLease, FolderLeaseLost
from ams_pod.download.manifest import Manifest, read_manifest, verify, write_manifest
from ams_pod.download.partial import Partial
from ams_pod.download.plan import check_lock
from ams_pod.download.progress import Tracker
from ams_pod.download.signature import Signer, read_signature
from ams_pod.layout import adapter_folder, engine_folder, inside, keeps_gguf

_LOOK_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Context:
    """What all jobs are given.

    `lock` maps file to sha256; `signer`: whom the files must be signed by; `patience`: most seconds without a byte.
    `adapter`: what is fetched is a LoRA adapter, whose files stay as they are.
    """

    models_dir: Path
    lock: dict[str, str]
    allow_pickle: bool
    patience: float
    tracker: Tracker
    signer: Signer | None = None
    engine: EngineName = "builtin"
    adapter: bool = False

    def folder_of(self, folder: Path, source: Source) -> Path:
        """Where what is fetched belongs, from the folder of the source as a model of the builtin engine."""
        return adapter_folder(folder) if self.adapter else engine_folder(folder, source, self.engine)

    @property
    def keeps_gguf(self) -> bool:
        """Whether a GGUF file stays as it is, for an engine that reads it."""
        return keeps_gguf(self.engine)

    @property
    def signature_path(self) -> str | None:
        """Where the signature lies among the model's files; None where none is asked for."""
        return self.signer.path if self.signer is not None else None


class Job(Protocol):
    """One model to download into `folder`. `converts`: the files are made from the source's, all at once."""

    @property
    def folder(self) -> Path: ...
    @property
    def source(self) -> str: ...
    @property
    def revision(self) -> str: ...
    @property
    def converts(self) -> bool: ...
    def fill(self, partial: Partial, lease: FolderLease, context: Context) -> None:
        """Bring all files into `partial` and record them. Failed, FolderLeaseLost or OSError."""


def inspect(folder: Path, context: Context, *, full: bool = False) -> tuple[Manifest | None, list[str]]:
    """(the manifest of a folder, its damaged files); no manifest if the folder isn't published.

    Failed (LockMismatch, SignatureMismatch) if all files are intact but not those that are locked or signed.
    """
    if (manifest := read_manifest(folder)) is None:
        return None, []
    if full:
        context.tracker.begin(Phase.VERIFYING, total=sum(entry.size for entry in manifest.files.values()))
    checked, damaged = verify(folder, manifest, full=full, read=context.tracker.add if full else lambda count: None)
    if context.signer is not None and context.signer.path not in manifest.files:
        damaged.append(context.signer.path)  # from a time when no signature was asked for
    if not damaged:
        check_files(folder, checked, context)
        if checked != manifest:
            with suppress(OSError):  # a read-only volume
                write_manifest(folder, checked)  # times changed, as after a restore: not to be hashed each time
    return checked, damaged


def check_files(folder: Path, manifest: Manifest, context: Context) -> None:
    """Whether the files of a folder are those that are locked and signed. Failed if not, OSError."""
    check_lock(context.lock, manifest.digests())
    if context.signer is not None:
        context.signer.check(read_signature(inside(folder, context.signer.path)), manifest.digests())


def is_intact(folder: Path, context: Context, *, full: bool = False) -> bool:
    """Whether the folder is finished and its files are as they were verified. Raises as `inspect`."""
    manifest, damaged = inspect(folder, context, full=full)
    return manifest is not None and not damaged


def ensure_published(job: Job, context: Context, *, full: bool = False) -> Path:
    """Bring the job's folder to its finished state, or wait until another process has. The folder.

    `full`: files of a published folder are hashed again. Failed or OSError where it can't be done.
    """
    while True:
        try:
            if (lease := _acquire(job, context, trust=not full)) is None:
                return job.folder
            with lease:
                return _produce(job, context, lease, full)
        except FolderLeaseLost:
            continue


def _acquire(job: Job, context: Context, *, trust: bool) -> FolderLease | None:
    """The lease; None if another process finished the folder meanwhile (which counts only with `trust`)."""
    contender = Contender(job.folder, context.tracker.snapshot)
    while True:
        if trust and is_intact(job.folder, context):
            return None
        answer = contender.attempt(time.monotonic())
        if isinstance(answer, FolderLease):
            return answer
        context.tracker.follow(answer, "another process works on this model")
        time.sleep(_LOOK_SECONDS)


def _produce(job: Job, context: Context, lease: FolderLease, full: bool) -> Path:
    manifest, damaged = inspect(job.folder, context, full=full)
    if manifest is not None and not damaged:
        return job.folder  # another process repaired it since this one looked
    if manifest is not None and job.converts:
        damaged = list(manifest.files)
    lease.check()
    partial = Partial.open(job.folder, damaged)
    job.fill(partial, lease, context)
    result = partial.manifest(job.source, job.revision)
    check_files(partial.path, result, context)
    lease.check()
    partial.publish(result)
    return job.folder
