"""Which steps of its models `ams up` tells where there is no terminal. Pure."""

from ams_common.lifecycle import Phase
from ams_common.progress import Progress

_PERCENT_STEP = 10.0
_STEP_SECONDS = 5.0
_BRIEF_SECONDS = 1.0  # faster steps than this share a line


class Lines:
    """Chooses which steps of which model are worth a line: each phase, and a download now and then."""

    def __init__(self) -> None:
        self._shown: dict[str, tuple[Progress, float]] = {}

    def line(self, name: str, progress: Progress, now: float) -> str | None:
        """The line to print for this step, or None."""
        before = self._shown.get(name)
        if before is not None and not _is_news(*before, progress, now):
            return None
        self._shown[name] = (progress, now)
        return f"{name}: {progress.comment()}" + (f" – {progress.message}" if progress.message else "")


def _is_settled(progress: Progress) -> bool:
    """Nothing is under way, so that a message changes only when something happened."""
    return progress.phase is Phase.FAILED or progress.phase.is_cold


def _is_news(shown: Progress, shown_at: float, progress: Progress, now: float) -> bool:
    if shown.phase != progress.phase or (shown.message != progress.message and _is_settled(progress)):
        return True
    if shown.percent is None or progress.percent is None:
        return False
    step, since = progress.percent - shown.percent, now - shown_at
    return (step >= _PERCENT_STEP and since >= _BRIEF_SECONDS) or (step > 0 and since >= _STEP_SECONDS)
