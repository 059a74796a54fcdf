"""A model of a hub: `hf://owner/name[@revision][?file=weights.gguf]`."""

import os
import random
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ams_common.hub_files import INDEX, RemoteFile, choose_adapter_files, choose_files, described
from ams_common.lifecycle import Phase
from ams_common.reasons import Reason
from ams_common.source import HubSource

from ams_pod.download.backoff import next_delay
from ams_pod.download.failures import Failed, Interrupted
from ams_pod.download.gguf import is_made, make
from ams_pod.download.hub import Hub
from ams_pod.download.jobs import Context
from ams_pod.download.lease import FolderLease
from ams_pod.download.listing import Listing
from ams_pod.download.partial import Partial
from ams_pod.download.plan import check_lock, plan_download
from ams_pod.download.signature import LARGEST_BYTES, read_signature
from ams_pod.download.transfer import Body, Transfer
from ams_pod.layout import hub_folder, is_commit, known_commit, revision_pointer

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class HubJob:
    """Brings one commit of a model, or of a LoRA adapter, into its folder."""

    hub: Hub
    spec: HubSource
    listing: Listing
    folder: Path
    adapter: bool = False

    @property
    def source(self) -> str:
        return f"hf://{self.spec.repository}"

    @property
    def revision(self) -> str:
        return self.listing.commit

    @property
    def converts(self) -> bool:
        return self.spec.file is not None and not self.adapter

    def fill(self, partial: Partial, lease: FolderLease, context: Context) -> None:
        self._fetch_signature(partial, lease, context)
        if is_made(self.spec.file if self.converts else None, partial, context):
            return
        as_input = self.converts and not context.keeps_gguf
        transfer = Transfer(self._open, partial, lease, context.tracker, context.patience, input=as_input)
        files = self._choose(partial, transfer, context)
        check_lock(context.lock, {file.path: file.sha256 for file in files})
        if context.signer is not None:  # before gigabytes of what may not be served
            content = read_signature(partial.place(context.signer.path))
            context.signer.check(content, {file.path: file.sha256 for file in files})
        present = {file.path: partial.present_bytes(file.path, input=as_input) for file in files}
        plan = plan_download(
            files, present, folder=str(partial.path.parent), free_bytes=shutil.disk_usage(partial.path).free
        )
        context.tracker.begin(Phase.DOWNLOADING, done=plan.total_bytes - plan.missing_bytes, total=plan.total_bytes)
        transfer.fetch(plan.files)
        if self.spec.file is not None and self.converts:
            make(self.spec.file, partial, lease, context)

    def _fetch_signature(self, partial: Partial, lease: FolderLease, context: Context) -> None:
        wanted = [file for file in self.listing.files if file.path == context.signature_path]
        if any((file.size or 0) > LARGEST_BYTES for file in wanted):
            raise Failed(Reason.SIGNATURE_MISMATCH, f"{context.signature_path} is far too large; nothing is served.")
        transfer = Transfer(self._open, partial, lease, context.tracker, context.patience)
        transfer.fetch([self._with_metadata(file, context) for file in wanted])

    def _choose(self, partial: Partial, transfer: Transfer, context: Context) -> tuple[RemoteFile, ...]:
        where, index = described(self.spec, self.revision), None
        if self.adapter:
            chosen = choose_adapter_files(
                self.listing.files, where=where, gguf=self.spec.file, signature=context.signature_path
            )
            return self._wanted(chosen, context)
        shards = [file for file in self.listing.files if file.path == INDEX]
        if shards and not self.converts:  # a small file that says which weights belong to the model
            transfer.fetch([self._with_metadata(file, context) for file in shards])
            index = partial.place(INDEX).read_bytes()
        chosen = choose_files(
            self.listing.files,
            where=where,
            gguf=self.spec.file,
            index=index,
            allow_pickle=context.allow_pickle,
            signature=context.signature_path,
        )
        return self._wanted(chosen, context)

    def _wanted(self, chosen: Sequence[RemoteFile], context: Context) -> tuple[RemoteFile, ...]:
        wanted = [file for file in chosen if file.path != context.signature_path]  # which is there
        return tuple(self._with_metadata(file, context) for file in wanted)

    def _with_metadata(self, file: RemoteFile, context: Context) -> RemoteFile:
        return with_patience(lambda: self.hub.with_metadata(self.revision, file), context.patience)

    def _open(self, file: RemoteFile, offset: int) -> AbstractContextManager[Body]:
        return self.hub.open(self.revision, file, offset)


def resolve(source: HubSource, context: Context, *, patience: float) -> HubJob:
    """Ask the hub what the revision is. Failed when it refuses, or doesn't answer for `patience` seconds."""
    hub = Hub(source)
    listing = with_patience(hub.list, patience)
    return HubJob(
        hub,
        source,
        listing,
        context.folder_of(hub_folder(context.models_dir, source, listing.commit), source),
        context.adapter,
    )


def remember(source: HubSource, context: Context, commit: str) -> None:
    """Keep what commit the revision is, for `serve` and for starts without the hub. OSError if it can't be written."""
    if is_commit(source.revision) or known_commit(context.models_dir, source) == commit:
        return
    pointer = revision_pointer(context.models_dir, source)
    pointer.parent.mkdir(parents=True, exist_ok=True)
    scratch = pointer.with_name(f".{pointer.name}.{os.getpid()}")
    scratch.write_text(commit)
    os.replace(scratch, pointer)


def with_patience(ask: Callable[[], T], patience: float) -> T:
    """The answer of `ask`, which is called again after Interrupted, for at most `patience` seconds."""
    start, attempt = time.monotonic(), 0
    while True:
        try:
            return ask()
        except Interrupted as interruption:
            attempt += 1
            idle = time.monotonic() - start
            delay = next_delay(attempt, idle, patience, interruption.retry_after, random.random())
            if delay is None:
                raise interruption.failed from None
            time.sleep(delay)
