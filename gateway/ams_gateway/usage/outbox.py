"""What still has to reach Redis, in batches that are numbered: one that is sent twice counts once. On one thread.

A batch stays here until Redis said that it has it, in a file if there is one. Batches are sent one after the other, and
Redis remembers the last number of each outbox, by an id that is made with the file.
"""

import fcntl
import logging
import os
import sqlite3
from pathlib import Path
from typing import NamedTuple

from ams_gateway.usage.store import NAMES, UPDATES, Database, StoreUnavailable, read_row
from ams_gateway.usage.sums import Group, Rows, Sums, add, merged

logger = logging.getLogger("ams_gateway")

_MOST_ROWS = 500  # of a batch: Redis does nothing else while it adds them, for about 5 µs each
_ADD = (
    f"INSERT INTO outbox (batch, {NAMES}) VALUES (0, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
    f"ON CONFLICT (batch, hour, key_id, key_name, model, outcome) DO UPDATE SET {UPDATES}"
)


class Batch(NamedTuple):
    """Rows with their number in the outbox `outbox`. `again`: it may have been sent before."""

    outbox: str
    number: int
    rows: list[tuple[Group, Sums]]
    again: bool

    @property
    def may_be_last(self) -> bool:
        return not self.again and len(self.rows) < _MOST_ROWS


class Outbox:
    """Over a file that no other process has open, or memory."""

    def __init__(self, path: Path | None) -> None:
        self._lock: int | None = None
        if path is not None and not self._take(path):
            path = None
        self._database = Database(path)
        self._unwritten: dict[Group, Sums] = {}
        self._written = 0
        self._has_moved = False

    def _take(self, path: Path) -> bool:
        """Whether this process alone has the file now."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            reason = "another process has it open" if isinstance(error, BlockingIOError) else str(error)
            logger.error("what has yet to reach Redis is kept in memory, not in %s: %s", path, reason)
            self._free()
            return False
        return True

    def _free(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def put(self, rows: Rows) -> bool:
        """Whether all is safe here."""
        for group, sums in rows.items():
            add(self._unwritten, group, sums)
        if not self._unwritten:
            return True
        try:
            with self._database.transaction() as connection:
                connection.executemany(_ADD, [(*group, *sums.bounded()) for group, sums in self._unwritten.items()])
                (self._written,) = connection.execute("SELECT count(*) FROM outbox").fetchone()
        except StoreUnavailable:
            return False
        self._unwritten.clear()
        return True

    @property
    def waiting(self) -> int:
        """Rows that Redis may not have."""
        return self._written + len(self._unwritten)

    def next_batch(self) -> Batch | None:
        """The oldest that Redis may not have, or a new one; None if all is sent. StoreUnavailable."""
        with self._database.transaction() as connection:
            self._move_what_was_kept(connection)
            facts = dict(connection.execute("SELECT name, value FROM facts"))
            if (outbox := facts.get("outbox")) is None:
                outbox = os.urandom(8).hex()
                connection.execute("INSERT INTO facts VALUES ('outbox', ?)", (outbox,))
            (number,) = connection.execute("SELECT min(batch) FROM outbox WHERE batch > 0").fetchone()
            if number is None:
                number = int(facts.get("batch", "0")) + 1
                changed = connection.execute(
                    "UPDATE outbox SET batch = ? WHERE rowid IN (SELECT rowid FROM outbox WHERE batch = 0 LIMIT ?)",
                    (number, _MOST_ROWS),
                ).rowcount
                if not changed:
                    return None
                connection.execute("INSERT OR REPLACE INTO facts VALUES ('batch', ?)", (str(number),))
                again = False
            else:
                again = True
            found = connection.execute(f"SELECT {NAMES} FROM outbox WHERE batch = ?", (number,))
            return Batch(outbox, number, [read_row(row) for row in found], again)

    def _move_what_was_kept(self, connection: sqlite3.Connection) -> None:
        """A gateway without Redis kept it in the same file, before this one started."""
        if self._has_moved:
            return
        connection.execute(
            f"INSERT INTO outbox (batch, {NAMES}) SELECT 0, {NAMES} FROM usage WHERE true "
            f"ON CONFLICT (batch, hour, key_id, key_name, model, outcome) DO UPDATE SET {UPDATES}"
        )
        connection.execute("DELETE FROM usage")
        self._has_moved = True

    def drop(self, batch: Batch) -> None:
        """Redis has it. StoreUnavailable: then it is sent again, which does no harm."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM outbox WHERE batch = ?", (batch.number,))
            (self._written,) = connection.execute("SELECT count(*) FROM outbox").fetchone()

    def rename(self) -> None:
        """Take another id: this outbox is a copy of one that went on elsewhere, and its numbers are taken."""
        with self._database.transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO facts VALUES ('outbox', ?)", (os.urandom(8).hex(),))

    def rows(self) -> list[tuple[Group, Sums]]:
        """All that Redis may not have. StoreUnavailable."""
        with self._database.transaction() as connection:
            written = [read_row(row) for row in connection.execute(f"SELECT {NAMES} FROM outbox")]
        return list(merged(written, self._unwritten.items()).items())

    def close(self) -> None:
        self.put({})
        self._database.close()
        self._free()
