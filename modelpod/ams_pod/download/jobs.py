"""From a source to a published folder: look, take the lease, fill, verify, publish."""

import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ams_common.engines.names import EngineName
from ams_common.lifecycle import Phase
from ams_common.quantity import format_bytes
from ams_common.reasons import Reason
from ams_common.source import Source

from ams_pod.derived import remove_all_derived
from ams_pod.download.failures import Failed
from ams_pod.download.lease import Contender, FolderLease, FolderLeaseLost
from ams_pod.download.manifest import CONVERSION, LEAST_CONVERSION, Manifest, read_manifest, verify, write_manifest
from ams_pod.download.partial import Partial
from ams_pod.download.plan import check_lock
from ams_pod.download.progress import Tracker
from ams_pod.download.report import say
from ams_pod.download.signature import Signer, read_signature
from ams_pod.layout import adapter_folder, engine_folder, inside, keeps_gguf

_LOOK_SECONDS = 0.5
# Failures that say that the file itself isn't to be served, and not that it can't be had now.
_OF_THE_FILE = (
    Reason.CONVERSION_FAILED, Reason.LOCK_MISMATCH, Reason.SIGNATURE_MISMATCH, Reason.CHECKSUM_MISMATCH,
)  # fmt: skip


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


def is_intact(folder: Path, context: Context, *, full: bool = False, outdated: bool = False) -> bool:
    """Whether the folder is finished and its files are as they were verified. Raises as `inspect`.

    `outdated`: also one that an earlier version converted otherwise than this one does.
    """
    manifest, damaged = inspect(folder, context, full=full)
    return manifest is not None and not damaged and (outdated or not is_outdated(manifest, context))


def is_outdated(manifest: Manifest, context: Context) -> bool:
    """Whether its files were converted by an earlier version, otherwise than this one does."""
    return bool(manifest.inputs) and _converts(context) and manifest.conversion < LEAST_CONVERSION


def _converts(context: Context) -> bool:
    """Whether GGUF files become something else."""
    return not context.keeps_gguf and not context.adapter


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
        except OSError as error:  # a read-only volume
            if not is_intact(job.folder, context, outdated=True):
                raise
            say(f"{job.folder} can't be used to convert ({error.strerror or error}). {outdated_sentence(job.folder)}")
            return job.folder


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
        if not is_outdated(manifest, context):
            return job.folder  # another process repaired it since this one looked
        if (made := _convert_again(job, context, lease)) is not None:
            return made
    if manifest is not None and job.converts:
        damaged = list(manifest.files)
    return _fill(job, context, lease, damaged, beside=False)


def _convert_again(job: Job, context: Context, lease: FolderLease) -> Path | None:
    """The folder, made anew beside that of an earlier version, which stays where the source can't be had.

    None where the volume has no room for both. Failed where the file may not be served.
    """
    try:
        return _fill(job, context, lease, (), beside=True)
    except Failed as error:
        if error.failure.reason == Reason.DISK_FULL:
            return None
        if error.failure.reason in _OF_THE_FILE:
            raise
        say(f"{error} {outdated_sentence(job.folder)}")
        return job.folder


def outdated_sentence(folder: Path) -> str:
    """For the log, where a folder is used although it would be converted again."""
    return (
        f"Going on with {folder.name} as an earlier version converted it: what its GGUF file says of positions may not"
        " be computed. It is converted again at the next start that reaches the source."
    )


def _fill(job: Job, context: Context, lease: FolderLease, damaged: Iterable[str], *, beside: bool) -> Path:
    lease.check()
    conversion = CONVERSION if job.converts and _converts(context) else 0
    partial = Partial.open(job.folder, damaged, conversion=conversion, beside=beside)
    try:
        job.fill(partial, lease, context)
    except Failed as error:
        if error.failure.reason != Reason.DISK_FULL or not (freed := remove_all_derived(context.models_dir)):
            raise
        say(f"The volume was full: {format_bytes(freed)} that pods had kept for faster starts were removed.")
        job.fill(partial, lease, context)
    result = partial.manifest(job.source, job.revision)
    check_files(partial.path, result, context)
    lease.check()
    partial.publish(result)
    return job.folder
