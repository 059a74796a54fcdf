"""Errors that clients of each model got in the last hour: bounded, and without anything that a client sent."""

from collections.abc import Iterable
from dataclasses import dataclass

from ams_common.errors import ERRORS
from ams_common.reasons import row_of
from ams_common.wire import ErrorOverview

KEPT_SECONDS = 3600.0
_MOST_KINDS = 12  # of one model
_MINUTES = 60
_LONGEST_MESSAGE = 300
# Codes whose sentence is about the model or this server. Those of other codes quote the request.
_ABOUT_THE_SERVER = frozenset(
    {
        "queue_full", "model_loading", "model_failed", "suspended", "no_backend", "backend_failed", "draining",
        "timeout", "insufficient_memory", "overloaded", "internal_error",
    }
)  # fmt: skip


@dataclass(slots=True)
class _Kind:
    """One kind of error: when it was last sent, and how often in each minute of the last hour."""

    time: float
    message: str
    help: str
    counts: dict[int, int]


class RecentErrors:
    """By model. Times are Unix times, in seconds."""

    def __init__(self) -> None:
        self._models: dict[str, dict[tuple[str, str], _Kind]] = {}

    def add(self, model: str, code: str, message: str, reason: str, now: float) -> None:
        """An error was sent. `message` is empty where only a pod told it; `reason` is that of a `model_failed`."""
        if code not in ERRORS:
            return
        kinds = self._models.setdefault(model, {})
        kind = kinds.get((code, reason))
        if kind is None:
            if len(kinds) >= _MOST_KINDS:
                del kinds[min(kinds, key=lambda key: kinds[key].time)]
            kind = kinds[code, reason] = _Kind(now, "", help_for(code, reason), {})
        kind.time = now
        if message and code in _ABOUT_THE_SERVER:
            kind.message = _line(message)
        minute = int(now // 60)
        kind.counts[minute] = kind.counts.get(minute, 0) + 1
        if len(kind.counts) > _MINUTES + 1:
            kind.counts = _of_the_last_hour(kind.counts, minute)

    def of(self, model: str, now: float) -> list[ErrorOverview]:
        """Those of the last hour, the newest first."""
        minute = int(now // 60)
        found = []
        for (code, _), kind in self._models.get(model, {}).items():
            count = sum(_of_the_last_hour(kind.counts, minute).values())
            if count and kind.time > now - KEPT_SECONDS:
                found.append(
                    ErrorOverview(time=int(kind.time), code=code, message=kind.message, help=kind.help, count=count)
                )
        return sorted(found, key=lambda error: (-error.time, error.code))

    def keep_only(self, models: Iterable[str]) -> None:
        """Forget models that are gone."""
        known = set(models)
        self._models = {name: kinds for name, kinds in self._models.items() if name in known}


def help_for(code: str, reason: str) -> str:
    """What can be done about an error, as docs/troubleshooting.md or docs/http.md says it."""
    row = row_of(reason) if reason else None
    if row is not None:
        return row.help
    meaning = ERRORS[code].meaning
    return meaning[:1].upper() + meaning[1:] + "."


def is_of_the_request(code: str) -> bool:
    """Whether the client's own request was wrong, which concerns nobody else."""
    return ERRORS[code].status < 500 and code != "queue_full"


def _of_the_last_hour(counts: dict[int, int], minute: int) -> dict[int, int]:
    return {at: count for at, count in counts.items() if at > minute - _MINUTES}


def _line(message: str) -> str:
    text = " ".join("".join(each if each.isprintable() else " " for each in message).split())
    return text if len(text) <= _LONGEST_MESSAGE else text[: _LONGEST_MESSAGE - 1] + "…"
