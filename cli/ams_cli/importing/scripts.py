"""A shell's script that runs commands in a row: which one runs last, and what runs before it."""

import re
from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass, field

from ams_cli.importing.results import NotImported

_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")
_VARIABLE = re.compile(
    r"\$(?:(?P<name>[A-Za-z_][A-Za-z0-9_]*)|\{(?P<braced>[A-Za-z_][A-Za-z0-9_]*)(?::?-(?P<default>[^{}$`]*))?\})"
)
_REDIRECTED = re.compile(r"[0-9]?&?>{1,2}\s*(?:&[0-9-]|[^\s;&|<>()]+)")
_SILENT = ("set", "echo", "printf", "sleep", "true", ":", "wait", "date", "trap", "shopt")
_WAITS = ("wait", "sleep", "tail", "exit")
_BLOCKS = ("if", "for", "while", "until", "case", "function", "select", "{", "then", "else", "elif", "fi", "do", "done")
_MOST_COMMANDS = 1000
_MOST_CHARACTERS = 1 << 17  # of a command once its variables are written out


@dataclass(slots=True)
class _Command:
    words: list[str] = field(default_factory=list)
    why_not: str = ""
    written_out: int = 0


@dataclass(frozen=True, slots=True)
class Script:
    """`words` of the command that stays, `variables` that are set before it, `before` are programs that run first."""

    words: list[str]
    variables: tuple[tuple[str, str], ...]
    before: tuple[str, ...]


def read_script(text: str, known: Mapping[str, str]) -> Script:
    """NotImported for what can't be told without a shell: pipes, loops, and variables that aren't `known`."""
    variables: dict[str, str] = {}
    before: list[str] = []
    found: list[_Command] = []
    every = ChainMap(variables, dict(known))
    position = commands = 0
    while position < len(text):
        command, position = _next(text, position, every)
        if not command.words:
            continue
        commands += 1
        if commands > _MOST_COMMANDS:
            raise NotImported(f"a script of a shell with more than {_MOST_COMMANDS} commands: write out what it runs")
        if command.words[0] in _BLOCKS:
            raise NotImported(f"a script of a shell with {command.words[0]!r}: write out what it runs")
        if (assigned := _assigned(command.words)) is not None and not command.why_not:
            variables.update(assigned)
        else:
            found.append(command)
    while len(found) > 1 and found[-1].words[0] in _WAITS:
        found.pop()
    if not found:
        raise NotImported("cmd is empty")
    if found[-1].why_not:
        raise NotImported(f"a script of a shell with {found[-1].why_not}: write out what it runs")
    before += [_label(each.words) for each in found[:-1] if each.words[0] not in _SILENT]
    return Script(found[-1].words, tuple(variables.items()), tuple(before))


def _label(words: list[str]) -> str:
    """A command by its program alone: what follows may be secret."""
    if words[0] in ("source", ".") and len(words) > 1:
        return f"source {words[1]}"
    return words[0]


def _assigned(words: list[str]) -> dict[str, str] | None:
    """What a command sets and does nothing else."""
    rest = words[1:] if words[0] == "export" else words
    if not all(_ASSIGNMENT.match(word) for word in rest):
        return None
    return dict(word.split("=", 1) for word in rest)


def _next(text: str, position: int, known: Mapping[str, str]) -> tuple[_Command, int]:
    """The command that begins at `position`, and where the next one does."""
    command = _Command()
    word: str | None = None

    def ended() -> None:
        nonlocal word
        if word is not None:
            command.words.append(word)
            word = None

    while position < len(text):
        here = text[position]
        if text.startswith(("\\\n", "\\\r\n"), position):
            position += 2 + (text[position + 1] == "\r")
        elif here == "\\" and position + 1 < len(text):
            word = (word or "") + text[position + 1]
            position += 2
        elif here == "'":
            end = text.find("'", position + 1)
            if end < 0:
                raise NotImported("cmd can't be split into words: No closing quotation")
            word = (word or "") + text[position + 1 : end]
            position = end + 1
        elif here == '"':
            quoted, position = _quoted(text, position + 1, known, command)
            word = (word or "") + quoted
        elif here == "#" and word is None:
            end = text.find("\n", position)
            position = len(text) if end < 0 else end
        elif here in "\n;" or text.startswith("&&", position):
            ended()
            return command, position + (2 if here == "&" else 1)
        elif (redirected := _REDIRECTED.match(text, position)) is not None and (word is None or here in "&>"):
            position = redirected.end()
        elif here == "&":
            ended()
            return command, position + 1
        elif here in "|<>()`":
            command.why_not = command.why_not or "pipes, redirections or other commands inside"
            ended()
            position += 1
        elif here == "$":
            value, position = _expanded(text, position, known, command)
            if _ASSIGNMENT.match(word or ""):
                word = (word or "") + value
            else:
                parts = value.split()
                for part in parts[:-1]:
                    command.words.append((word or "") + part)
                    word = None
                word = (word or "") + parts[-1] if parts else word
        elif here.isspace():
            ended()
            position += 1
        else:
            word = (word or "") + here
            position += 1
    ended()
    return command, position


def _quoted(text: str, position: int, known: Mapping[str, str], command: _Command) -> tuple[str, int]:
    """What stands in double quotes from `position` on, and where they end."""
    result = ""
    while position < len(text):
        here = text[position]
        if here == '"':
            return result, position + 1
        if here == "\\" and position + 1 < len(text):
            after = text[position + 1]
            result += "" if after == "\n" else after if after in '"\\$`' else here + after
            position += 2
        elif here == "$":
            value, position = _expanded(text, position, known, command)
            result += value
        else:
            if here == "`":
                command.why_not = command.why_not or "other commands inside"
            result += here
            position += 1
    raise NotImported("cmd can't be split into words: No closing quotation")


def _expanded(text: str, position: int, known: Mapping[str, str], command: _Command) -> tuple[str, int]:
    """The value of a variable, and where its name ends."""
    found = _VARIABLE.match(text, position)
    if found is None:
        if text.startswith("$(", position) or re.match(r"\$[\w@*#?!{$-]", text[position : position + 2]):
            command.why_not = command.why_not or "other commands or parameters inside"
        return "$", position + 1
    name = found["name"] or found["braced"]
    value = known.get(name) or found["default"]
    if value is None and name in known:
        value = ""
    if value is None:
        command.why_not = command.why_not or f"the variable {name}, whose value isn't told"
        value = ""
    command.written_out += len(value)
    if command.written_out > _MOST_CHARACTERS:
        raise NotImported(f"cmd has more than {_MOST_CHARACTERS:,} characters once its variables are written out")
    return value, found.end()
