"""Why a process ended: its own explanation where it left one, otherwise its last words in the log."""

from pathlib import Path

from ams_common.outside import InvalidJson, read_json
from ams_common.progress import Failure

_TAIL_BYTES = 4096
_LONGEST = 300


def reported_failure(termination_log: Path) -> Failure | None:
    """The failure that a process wrote down before it ended, if it did."""
    try:
        return read_json(termination_log.read_bytes().strip(), Failure)
    except (OSError, InvalidJson):
        return None


def last_log_line(log: Path, since: int) -> str:
    """The last line that was written to `log` after its byte `since`, or where to look."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(since, size - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return f"last line in {log}: {lines[-1].strip()[:_LONGEST]}" if lines else f"nothing was written to {log}"


def log_size(log: Path) -> int:
    try:
        return log.stat().st_size
    except OSError:
        return 0
