"""Command lines as a shell or another program starts them: which program runs in the end, and with which words."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from ams_cli.importing.results import NotImported
from ams_cli.importing.scripts import read_script

_SHELLS = ("sh", "bash", "dash", "ash", "zsh")
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")
_MOST_LAYERS = 8
_MOST_CHARACTERS = 1 << 17  # of a command; Linux passes no longer word
_MOST_WORDS = 10_000
_STARTERS: dict[str, tuple[tuple[str, ...], int]] = {
    "env": (("-u", "--unset", "-C", "--chdir"), 0),
    "exec": (("-a",), 0),
    "nohup": ((), 0),
    "setsid": ((), 0),
    "time": ((), 0),
    "nice": (("-n", "--adjustment"), 0),
    "ionice": (("-c", "--class", "-n", "--classdata"), 0),
    "chrt": ((), 1),
    "taskset": ((), 1),
    "timeout": (("-s", "--signal", "-k", "--kill-after"), 1),
    "stdbuf": (("-i", "-o", "-e"), 0),
    "numactl": (("-N", "--cpunodebind", "-m", "--membind", "-C", "--physcpubind", "-i", "--interleave"), 0),
    "sudo": (("-u", "--user", "-g", "--group"), 0),
    "tini": ((), 0),
    "dumb-init": ((), 0),
}
"""Programs that start another: their options with a value, and how many words stand before the other's name."""
_SILENT = ("env", "exec", "time", "nohup", "setsid", "tini", "dumb-init")


@dataclass(frozen=True, slots=True)
class Started:
    """A program and its arguments. `by` are the programs that start it and change how it runs, as `nice` does, or that
    run before it.
    """

    program: str
    arguments: tuple[str, ...]
    variables: tuple[tuple[str, str], ...] = ()
    by: tuple[str, ...] = ()


def started(words: Sequence[str], known: Mapping[str, str] | None = None) -> Started:
    """What a command line runs in the end. NotImported says why that can't be told, as of a script with loops.

    `known` are the variables that a shell's script finds.
    """
    if len(words) > _MOST_WORDS:
        raise NotImported(f"cmd has more than {_MOST_WORDS:,} words")
    rest = list(words)
    variables: list[tuple[str, str]] = []
    by: list[str] = []
    for _ in range(_MOST_LAYERS):
        while rest and _ASSIGNMENT.match(rest[0]):
            name, _, value = rest.pop(0).partition("=")
            variables.append((name, value))
        if not rest:
            raise NotImported("cmd is empty")
        name = PurePosixPath(rest[0]).name
        if name in _STARTERS:
            rest = _after(rest[1:], *_STARTERS[name])
            by += [] if name in _SILENT else [name]
        elif name in _SHELLS and (script := _script(rest[1:])) is not None:
            if len(script) > _MOST_CHARACTERS:
                raise NotImported(f"cmd has more than {_MOST_CHARACTERS:,} characters")
            read = read_script(script, {**(known or {}), **dict(variables)})
            rest = read.words
            variables += read.variables
            by += read.before
        else:
            return Started(rest[0], tuple(rest[1:]), tuple(variables), tuple(by))
    raise NotImported("cmd: programs that start programs are nested too deeply")


def split(text: str) -> list[str]:
    """A command line's words; NotImported if a quote of it isn't closed."""
    if len(text) > _MOST_CHARACTERS:
        raise NotImported(f"cmd has more than {_MOST_CHARACTERS:,} characters")
    try:
        return shlex.split(text)
    except ValueError as error:
        raise NotImported(f"cmd can't be split into words: {error}") from None


def _after(words: list[str], valued: Sequence[str], positions: int) -> list[str]:
    """The words that follow a starter's own."""
    rest = list(words)
    while rest and rest[0].startswith("-"):
        option = rest.pop(0)
        if option == "--":
            break
        if option in valued and rest:
            rest.pop(0)
    return rest[positions:]


def _script(words: Sequence[str]) -> str | None:
    """The script of `-c`, also among other letters as in `-lc`; None if there is none."""
    for index, word in enumerate(words):
        if not word.startswith("-"):
            return None
        if re.fullmatch(r"-[a-z]*c[a-z]*", word):
            return words[index + 1] if index + 1 < len(words) else None
    return None
