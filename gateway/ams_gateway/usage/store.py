"""Rows of the ledger in SQLite: added to, read and pruned, on one thread. What can't be written waits in memory."""

import contextlib
import logging
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from ams_gateway.usage.database import is_damage, open_database, set_aside
from ams_gateway.usage.sums import MOST, Group, Rows, Sums, Take, add, month_tokens

logger = logging.getLogger("ams_gateway")

_SUMS = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens", "media", "compute_microseconds")
NAMES = f"hour, key_id, key_name, model, outcome, {', '.join(_SUMS)}"
UPDATES = ", ".join(f"{name} = min({name} + excluded.{name}, {MOST})" for name in _SUMS)
_ADD = (
    f"INSERT INTO usage ({NAMES}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
    f"ON CONFLICT (hour, key_id, key_name, model, outcome) DO UPDATE SET {UPDATES}"
)
_MOST_ROWS = 2_000_000  # about 200 MB


class StoreUnavailable(Exception):
    """What was written before can't be read now; the message says why."""


class Database:
    """A connection that is opened when it can be, and again when its file had to be set aside."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._connection: sqlite3.Connection | None = None
        self._fault = ""

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing. StoreUnavailable when there is no database, or it refuses."""
        try:
            if self._connection is None:
                self._connection = open_database(self.path)
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            self._note(error)
            raise StoreUnavailable(f"{self.path or 'the database in memory'}: {error}") from None
        if self._fault:
            self._fault = ""
            logger.warning("what keys use is written to %s again", self.path)

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _note(self, error: Exception) -> None:
        """Say what is wrong once; a connection in an unknown state is not used again."""
        if self._connection is not None and self._connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
        if str(error) != self._fault:
            self._fault = str(error)
            logger.error("what keys use can't be written to %s, and is kept in memory: %s", self.path, error)
        if self.path is not None:
            self.close()
            if isinstance(error, sqlite3.Error) and is_damage(error):
                with contextlib.suppress(OSError):
                    logger.error("%s is damaged: it is kept as %s", self.path, set_aside(self.path).name)


class Store:
    """What each key has used."""

    def __init__(self, path: Path | None) -> None:
        self._database = Database(path)
        self._unwritten: dict[Group, Sums] = {}

    def add(self, rows: Rows) -> bool:
        """Whether all is written."""
        for group, sums in rows.items():
            add(self._unwritten, group, sums)
        if not self._unwritten:
            return True
        try:
            with self._database.transaction() as connection:
                connection.executemany(_ADD, [(*group, *sums.bounded()) for group, sums in self._unwritten.items()])
        except StoreUnavailable:
            return False
        self._unwritten.clear()
        return True

    @property
    def waiting(self) -> int:
        """Rows that aren't written."""
        return len(self._unwritten)

    def each(self, start: int, end: int, take: Take) -> None:
        """Give `take` the rows of the hours from `start` to before `end`; a group may come twice. StoreUnavailable."""
        with self._database.transaction() as connection:
            found = connection.execute(f"SELECT {NAMES} FROM usage WHERE hour >= ? AND hour < ?", (start, end))
            take(map(read_row, found))
        take((group, sums) for group, sums in self._unwritten.items() if start <= group.hour < end)

    def tokens(self, key_ids: Sequence[str], start: int) -> dict[str, int]:
        """Tokens of these keys since `start`. StoreUnavailable."""
        tokens = month_tokens(self._unwritten.items(), key_ids, start, 2**62)
        with self._database.transaction() as connection:
            for key_id in key_ids:
                (count,) = connection.execute(
                    "SELECT sum(prompt_tokens + completion_tokens) FROM usage WHERE hour >= ? AND key_id = ?",
                    (start, key_id),
                ).fetchone()
                if count:
                    tokens[key_id] = tokens.get(key_id, 0) + int(count)
        return tokens

    def prune(self, before: int) -> None:
        """Forget hours that began before; and the oldest, should there be far too many rows."""
        with contextlib.suppress(StoreUnavailable), self._database.transaction() as connection:
            connection.execute("DELETE FROM usage WHERE hour < ?", (before,))
            (count,) = connection.execute("SELECT count(*) FROM usage").fetchone()
            if count > _MOST_ROWS:
                last = connection.execute(
                    "SELECT hour FROM usage ORDER BY hour LIMIT 1 OFFSET ?", (count - _MOST_ROWS,)
                ).fetchone()
                connection.execute("DELETE FROM usage WHERE hour <= ?", last)
                logger.warning("what keys used before is forgotten: there were more than %d rows", _MOST_ROWS)

    def close(self) -> None:
        self.add({})
        self._database.close()


def read_row(row: tuple[int | str, ...]) -> tuple[Group, Sums]:
    return Group(*row[:5]), Sums(*row[5:])  # type: ignore[arg-type]
