"""The SQLite file of the ledger, opened so that nothing that lies there can stop a gateway or be destroyed by it.

A file that can't be read, or was written by a newer version, is set aside under another name. Each commit reaches the
system before it returns, so that it survives the end of the process however it comes; only a machine that loses power
may lose the last ones.
"""

import contextlib
import logging
import os
import sqlite3
import time
from pathlib import Path

logger = logging.getLogger("ams_gateway")

_VERSION = 1
_BUSY_SECONDS = 5.0  # that another process may write
_COLUMNS = """
  hour INTEGER NOT NULL, key_id TEXT NOT NULL, key_name TEXT NOT NULL, model TEXT NOT NULL, outcome TEXT NOT NULL,
  requests INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL,
  completion_tokens INTEGER NOT NULL, media INTEGER NOT NULL, compute_microseconds INTEGER NOT NULL
"""
# What each key has used; and what still has to reach Redis, in batches from 1 on, 0 for what is in none yet.
_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS usage ({_COLUMNS}, PRIMARY KEY (hour, key_id, key_name, model, outcome)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outbox (
  batch INTEGER NOT NULL, {_COLUMNS}, UNIQUE (batch, hour, key_id, key_name, model, outcome)
);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
PRAGMA user_version = {_VERSION};
COMMIT;
"""


class Unreadable(Exception):
    """The file is damaged, or a newer version's; the message says so in a clause."""


def open_database(path: Path | None) -> sqlite3.Connection:
    """The database at `path`, or one in memory. sqlite3.Error or OSError when there can't be one."""
    if path is None:
        return _opened(":memory:")
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))  # its owner's alone: it names people
    try:
        return _opened(str(path))
    except Unreadable as error:
        aside = set_aside(path)
        logger.error("%s %s: it is kept as %s, and a new one is begun", path, error, aside.name)
        return _opened(str(path))


def set_aside(path: Path) -> Path:
    """Give a file another name, together with what SQLite wrote beside it."""
    stem = f"{path.name}.aside-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}"
    number = 0
    while (aside := path.with_name(f"{stem}-{number}" if number else stem)).exists():
        number += 1
    os.replace(path, aside)
    for suffix in ("-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.replace(f"{path}{suffix}", f"{aside}{suffix}")
    return aside


def is_damage(error: sqlite3.Error) -> bool:
    """Whether an error says that the file itself is broken, not that it is busy, full or forbidden."""
    return not isinstance(error, sqlite3.OperationalError | sqlite3.ProgrammingError) and isinstance(
        error, sqlite3.DatabaseError
    )


def _opened(name: str) -> sqlite3.Connection:
    # Several threads never use it at once; which one does changes.
    connection = sqlite3.connect(name, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        try:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version > _VERSION:
                raise Unreadable(f"is of a newer version ({version})")
            _log_ahead(connection)
            connection.execute("PRAGMA synchronous = NORMAL")
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise Unreadable("is damaged")
            connection.executescript(_SCHEMA)
            connection.execute("SELECT batch, hour, compute_microseconds FROM outbox LIMIT 1")
            connection.execute("SELECT hour, compute_microseconds FROM usage LIMIT 1")
        except sqlite3.DatabaseError as error:
            if is_damage(error) or "no such column" in str(error):
                raise Unreadable(f"can't be read ({error})") from None
            raise
    except BaseException:
        connection.close()
        raise
    return connection


def _log_ahead(connection: sqlite3.Connection) -> None:
    """Turn write-ahead logging on. SQLite doesn't wait for another process here, as it does everywhere else: changing
    the mode turns a read into a write, and two that do so at once would wait for each other."""
    until = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
        time.sleep(0.01)
