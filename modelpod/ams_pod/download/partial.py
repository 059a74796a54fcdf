"""The folder that is being filled: `<model>.partial`, its journal of verified files, and its one rename."""

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec
from ams_common.hub_files import MANIFEST, is_inside
from ams_common.outside import InvalidJson, read_json

from ams_pod.download.manifest import FileEntry, Manifest, entry_of, is_unchanged, read_manifest, write_manifest
from ams_pod.layout import inside, partial_of

_JOURNAL = ".journal"
_INPUT = ".input"


class _Line(msgspec.Struct, frozen=True):
    """A verified file in the journal. `input` marks what is only converted, and not kept.

    `conversion` is as in Manifest.
    """

    file: str
    entry: FileEntry
    input: bool = False
    conversion: int = 0


class Partial:
    """A model on its way. Files appear under their own name once verified, `<name>.part` before."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = partial_of(folder)
        self._lines: dict[tuple[str, bool], _Line] = {}

    @classmethod
    def open(cls, folder: Path, damaged: Iterable[str] = (), *, conversion: int = 0, beside: bool = False) -> "Partial":
        """Go on where the last process stopped.

        A finished folder with `damaged` files becomes partial again, without them: who has files of it open keeps them.
        With `beside` it stays until this one is published. What an earlier `conversion` made is made again.
        OSError as the file system says. The caller holds the lease.
        """
        partial = cls(folder)
        if folder.exists() and not beside:
            if (manifest := read_manifest(folder)) is not None:
                good = [_Line(path, entry) for path, entry in manifest.files.items() if path not in set(damaged)]
                (folder / _JOURNAL).write_bytes(_encode(good))
            (folder / MANIFEST).unlink(missing_ok=True)  # from here on it isn't finished, wherever we die
            for path in damaged:
                inside(folder, path).unlink(missing_ok=True)
            if partial.path.exists():
                shutil.rmtree(partial.path)
            os.rename(folder, partial.path)
        partial.path.mkdir(parents=True, exist_ok=True)
        partial._load(conversion)
        return partial

    @property
    def input(self) -> Path:
        """A folder for what is converted or unpacked and then dropped."""
        path = self.path / _INPUT
        path.mkdir(exist_ok=True)
        return path

    def place(self, file: str, *, input: bool = False) -> Path:
        """Where the verified file lies, or will. OutsideRoot if `file` names no place in this folder."""
        return inside(self.path / _INPUT if input else self.path, file)

    def verified(self, file: str, *, input: bool = False) -> FileEntry | None:
        """The file's entry, if it is there as it was verified."""
        line = self._lines.get((file, input))
        return line.entry if line and is_unchanged(self.place(file, input=input), line.entry) else None

    def has_files(self, *, besides: str | None = None) -> bool:
        """Whether there are verified files beside inputs and the one named. Converted ones are recorded all at once."""
        return any(not line.input and line.file != besides for line in self._lines.values())

    def present_bytes(self, file: str, *, input: bool = False) -> int:
        """How many bytes of the file are there, verified or not."""
        target = self.place(file, input=input)
        for path in (target, part_of(target)):
            try:
                return path.stat().st_size
            except OSError:
                continue
        return 0

    def record(self, digests: Mapping[str, str], *, input: bool = False, conversion: int = 0) -> None:
        """Note files (to sha256) as verified, all or none; they lie in their places. Safe from several threads."""
        self._append(
            [
                _Line(file, entry_of(self.place(file, input=input), sha256), input, conversion)
                for file, sha256 in digests.items()
            ]
        )

    def record_as_input(self, file: str) -> None:
        """Note a recorded file as what others are made of too, though it is kept: it alone came from the source."""
        self._append([_Line(file, self._lines[file, False].entry, True)])

    def record_input(self, path: Path, sha256: str) -> None:
        """Note a file from elsewhere as what the recorded files were made of."""
        self._append([_Line(path.name, entry_of(path, sha256), True)])

    def _append(self, lines: list[_Line]) -> None:
        handle = os.open(self.path / _JOURNAL, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, _encode(lines))
        finally:
            os.close(handle)
        self._note(lines)

    def _note(self, lines: Iterable[_Line]) -> None:
        self._lines.update({(line.file, line.input): line for line in lines})

    def manifest(self, source: str, revision: str) -> Manifest:
        """The manifest of all that was recorded."""
        lines = sorted(self._lines.values(), key=lambda line: line.file)
        return Manifest(
            source=source,
            revision=revision,
            files={line.file: line.entry for line in lines if not line.input},
            inputs={line.file: line.entry.sha256 for line in lines if line.input},
            conversion=max((line.conversion for line in lines), default=0),
        )

    def publish(self, manifest: Manifest) -> None:
        """Write the manifest, drop what it doesn't name, and give the folder its name by one rename.

        A finished folder of that name is moved away before, and removed.
        """
        write_manifest(self.path, manifest)
        keep = {MANIFEST, _JOURNAL, *manifest.files}
        for root, folders, names in os.walk(self.path, topdown=False):
            for name in names:
                path = Path(root, name)
                if path.relative_to(self.path).as_posix() not in keep:
                    path.unlink()
            for name in folders:
                if not os.listdir(Path(root, name)):
                    os.rmdir(Path(root, name))
        _sync_folder(self.path)
        replaced = self.folder.with_name(f"{self.folder.name}.replaced")
        shutil.rmtree(replaced, ignore_errors=True)
        if self.folder.exists():
            os.rename(self.folder, replaced)
        os.rename(self.path, self.folder)
        _sync_folder(self.folder.parent)
        (self.folder / _JOURNAL).unlink(missing_ok=True)
        shutil.rmtree(replaced, ignore_errors=True)

    def _load(self, conversion: int) -> None:
        try:
            content = (self.path / _JOURNAL).read_bytes()
        except FileNotFoundError:
            return
        for text in content.splitlines():
            try:
                lines = [line for line in read_json(text, list[_Line]) if is_inside(line.file)]
                self._note(line for line in lines if line.input or line.conversion >= conversion)
            except InvalidJson:
                continue  # the process died while it wrote; these files are verified again


def part_of(target: Path) -> Path:
    """The name of a file while its bytes arrive."""
    return target.with_name(target.name + ".part")


def _encode(lines: list[_Line]) -> bytes:
    return b"\n" + msgspec.json.encode(lines) + b"\n"  # the first newline ends a torn line before it


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        pass  # some network file systems refuse it for folders
    finally:
        os.close(handle)
