"""What keys have used, as it was asked for: which time, added up by what, as rows. Pure."""

import csv
import io
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from ams_common.errors import ApiError
from ams_common.wire.usage import UsageReport, UsageRow, UsageTotals

from ams_gateway.usage.sums import HOUR, Group, Sums, add

DIMENSIONS = ("key", "model", "outcome", "hour", "day", "month")
_TIMES = ("hour", "day", "month")
_NUMBERS = (
    "requests", "prompt_tokens", "cached_tokens", "completion_tokens", "media", "compute_seconds",
)  # fmt: skip
_MOST_ROWS = 100_000
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_FIRST = datetime(2000, 1, 1, tzinfo=UTC)
_LAST = datetime(2200, 1, 1, tzinfo=UTC)


class Query(NamedTuple):
    """Hours from `start` to before `end`, in Unix time, added up by `group`."""

    start: int
    end: int
    group: tuple[str, ...]


def read_query(parameters: Mapping[str, str], now: float) -> Query:
    """`from`, `to` and `group` of a request: this month, by key, if they are left out. ApiError `invalid_parameter`."""
    moment = datetime.fromtimestamp(now, UTC)
    month = moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    start = _time(parameters, "from", end=False) or month
    end = _time(parameters, "to", end=True) or moment
    first, last = int(start.timestamp()) // HOUR * HOUR, -(-int(end.timestamp()) // HOUR) * HOUR
    if end.timestamp() == int(now) // HOUR * HOUR and not parameters.get("to"):
        last += HOUR  # an hour that has just begun
    if first >= last:
        raise ApiError("invalid_parameter", "from must be before to.", param="from")
    return Query(first, last, _group(parameters))


def _group(parameters: Mapping[str, str]) -> tuple[str, ...]:
    names = tuple(name.strip() for name in parameters.get("group", "key").split(",") if name.strip())
    if unknown := [name for name in names if name not in DIMENSIONS]:
        raise ApiError(
            "invalid_parameter", f"group can't be {unknown[0][:50]!r}: use {', '.join(DIMENSIONS)}.",
            param="group", given=unknown[0][:50], allowed=list(DIMENSIONS),
        )  # fmt: skip
    if len([name for name in names if name in _TIMES]) > 1:
        raise ApiError("invalid_parameter", "group takes only one of hour, day and month.", param="group")
    return tuple(dict.fromkeys(names))


def _time(parameters: Mapping[str, str], name: str, *, end: bool) -> datetime | None:
    """A date or a time; a date as an end includes its day."""
    if not (text := parameters.get(name, "").strip()):
        return None
    try:
        when = datetime.fromisoformat(text.upper().replace(" ", "+"))  # a plus sign that wasn't escaped
        when = when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
        if len(text) == len("2026-11-26") and end:
            when += timedelta(days=1)
    except (ValueError, OverflowError):
        raise _bad_time(name, text) from None
    if not _FIRST <= when <= _LAST:
        raise _bad_time(name, text)
    return when


def _bad_time(name: str, text: str) -> ApiError:
    return ApiError(
        "invalid_parameter", f"{name} can't be {text[:50]!r}: use a date as 2026-11-26 or a time as "
        "2026-11-26T06:00:00Z.", param=name, given=text[:50],
    )  # fmt: skip


class Adding:
    """Rows as they are added up. ApiError `invalid_parameter` for far too many."""

    def __init__(self, query: Query) -> None:
        self._query = query
        self._names: dict[str, tuple[int, str]] = {}  # of keys, by id: as they were called last
        self._sums: dict[Group, Sums] = {}

    def take(self, rows: Iterable[tuple[Group, Sums]]) -> None:
        by, names = self._query.group, self._names
        for group, numbers in rows:
            if "key" in by and group.hour >= names.get(group.key_id, (-1, ""))[0]:
                names[group.key_id] = (group.hour, group.key_name)
            add(self._sums, _reduced(group, by), numbers)
            if len(self._sums) > _MOST_ROWS:
                raise ApiError(
                    "invalid_parameter", f"These are more than {_MOST_ROWS:,} rows: ask for a shorter time, or group "
                    "by less.", param="group",
                )  # fmt: skip

    def report(self) -> UsageReport:
        """All that was taken, sorted by time, then by tokens."""
        query = self._query
        total = Sums()
        for numbers in self._sums.values():
            total = total.plus(numbers)
        ordered = sorted(self._sums.items(), key=lambda item: (item[0].hour, -item[1].tokens, item[0]))
        return UsageReport(
            start=_text(query.start),
            end=_text(query.end),
            group=list(query.group),
            rows=[_row(group, numbers, self._names, query.group) for group, numbers in ordered],
            total=UsageTotals(**_numbers(total)),
        )


def _reduced(group: Group, by: tuple[str, ...]) -> Group:
    """The group with only what is asked for; times as the start of theirs."""
    hour = 0
    if "hour" in by:
        hour = group.hour
    elif "day" in by:
        hour = group.hour // (24 * HOUR) * (24 * HOUR)
    elif "month" in by:
        moment = datetime.fromtimestamp(group.hour, UTC)
        hour = int(moment.replace(day=1, hour=0, minute=0, second=0).timestamp())
    return Group(
        hour,
        group.key_id if "key" in by else "",
        "",
        group.model if "model" in by else "",
        group.outcome if "outcome" in by else "",
    )


def _row(group: Group, sums: Sums, names: Mapping[str, tuple[int, str]], by: tuple[str, ...]) -> UsageRow:
    return UsageRow(
        start=_text(group.hour) if any(name in _TIMES for name in by) else None,
        key=names[group.key_id][1] if "key" in by else None,
        key_id=group.key_id if "key" in by else None,
        model=group.model if "model" in by else None,
        outcome=group.outcome if "outcome" in by else None,
        **_numbers(sums),
    )


def _numbers(sums: Sums) -> dict[str, Any]:
    return {
        "requests": sums.requests,
        "prompt_tokens": sums.prompt_tokens,
        "cached_tokens": sums.cached_tokens,
        "completion_tokens": sums.completion_tokens,
        "media": sums.media,
        "compute_seconds": sums.compute_microseconds / 1e6,
    }


def _text(unix: int) -> str:
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def to_csv(result: UsageReport) -> str:
    """The rows with a line of names above, without the total."""
    columns = [name for name in ("start", "key", "key_id", "model", "outcome") if _is_asked_for(name, result.group)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow([*columns, *_NUMBERS])
    for row in result.rows:
        writer.writerow([_cell(getattr(row, name)) for name in (*columns, *_NUMBERS)])
    return text.getvalue()


def _is_asked_for(column: str, group: list[str]) -> bool:
    if column == "start":
        return any(name in _TIMES for name in group)
    return ("key" if column == "key_id" else column) in group


def _cell(value: str | int | float | None) -> str | int | float:
    """A text that spreadsheets would take for a formula begins with an apostrophe, by which they take it for text."""
    if isinstance(value, str):
        return f"'{value}" if value.startswith(_FORMULA) else value
    return "" if value is None else value
