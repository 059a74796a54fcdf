"""Progress that a process appends to a file as JSON lines."""

from pathlib import Path

from ams_common.outside import InvalidJson, read_json
from ams_common.progress import Progress


class ProgressTail:
    """Reads what was appended since the last time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def newest(self) -> Progress | None:
        """The last complete line that is new, or None; a line that can't be read is passed over."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except OSError:
            return None
        complete = data[: data.rfind(b"\n") + 1]
        self._offset += len(complete)
        for line in reversed(complete.splitlines()):
            try:
                return read_json(line, Progress)
            except InvalidJson:
                continue
        return None
