"""Read calls of tools from an answer as its text arrives, whatever the dialect.

A dialect's grammar is a generator that walks the text with the methods of `Reading`: each waits, by yielding, until
enough of it has come. So what is read never depends on how the text was cut into pieces. A text that only began like a
call raises `NotACall` inside, and is given out as the text that it is.
"""

import json
import re
from collections.abc import Callable, Collection, Generator
from typing import Any, TypeVar

import msgspec

from ams_pod.tool_calls.pieces import CallDelta, Read

T = TypeVar("T")
Waiting = Generator[None, None, T]

_MOST_DIGITS = 4000  # Python refuses longer integers, and so do clients
_CLOSES = {"{": "}", "[": "]"}
_MARKS = re.compile(r'["{}\[\]]')


class NotACall(Exception):
    """The text is none, or none that can be read."""


class Reading:
    """The text so far, and what was read of it. `names` are those of the tools.

    With `eager`, a call is given out while it arrives; else only when it is complete, and a broken one as text.
    """

    def __init__(self, names: Collection[str], new_id: Callable[[], str], *, eager: bool, most_calls: int) -> None:
        self.names = names
        self._new_id = new_id
        self._eager = eager
        self._most_calls = most_calls
        self._buffer = ""
        self._ended = False
        self._pending = ""  # read, and neither given out as text nor known to be a call's
        self._behind = ""  # read since the last piece of arguments
        self._text: list[str] = []
        self._calls: list[CallDelta] = []
        self._held: list[CallDelta] = []  # of the call that is being read
        self._arguments: list[str] = []
        self._count = 0
        self._open = False
        self._spaces_end = False  # white space that comes next stands behind a call
        self.full = False

    # -- the text

    def feed(self, text: str) -> None:
        self._buffer += text

    def end(self) -> None:
        self._ended = True

    def taken(self, *, rest: bool = False) -> Read:
        """What is new; with `rest` the text that was not walked through too, unless there are all calls."""
        if rest:
            if not (self.full and self._count):
                self.say(self._buffer)
            self._buffer = ""
        read = Read("".join(self._text), tuple(self._calls))
        self._text, self._calls = [], []
        return read

    def peek(self) -> Waiting[str]:
        """The next character, empty at the end."""
        while not self._buffer and not self._ended:
            yield
        return self._buffer[:1]

    def take(self, count: int) -> str:
        """So many characters, which have come."""
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        self._pending += taken
        self._behind += taken
        return taken

    def starts(self, text: str) -> Waiting[bool]:
        """Whether this comes next."""
        while len(self._buffer) < len(text) and text.startswith(self._buffer) and not self._ended:
            yield
        return self._buffer.startswith(text)

    def literal(self, text: str) -> Waiting[None]:
        if not (yield from self.optional(text)):
            raise NotACall

    def optional(self, text: str) -> Waiting[bool]:
        """Whether this came next; then it is read."""
        if not (yield from self.starts(text)):
            return False
        self.take(len(text))
        return True

    def spaces(self) -> Waiting[str]:
        """Read white space; gives the character behind it, empty at the end."""
        while (yield from self.peek()).isspace():
            self.take(len(self._buffer) - len(self._buffer.lstrip()))
        return self._buffer[:1]

    def behind_spaces(self) -> Waiting[str]:
        """The first character that is no white space, of which nothing is read; empty at the end."""
        while not (text := self._buffer.lstrip()) and not self._ended:
            yield
        return text[:1]

    def word(self, allowed: Callable[[str], bool], most: int = 256) -> Waiting[str]:
        """Characters of a kind."""
        word = ""
        while (character := (yield from self.peek())) and allowed(character):
            word += self.take(1)
            if len(word) > most:
                raise NotACall
        return word

    def until(
        self, stop: str, emit: Callable[[str], None] = lambda text: None, most: int | None = None
    ) -> Waiting[str]:
        """The text before `stop`, which is read too; `emit` gets it as it comes."""
        parts = []
        while True:
            at = self._buffer.find(stop)
            if at < 0 and not self._ended:
                at = len(self._buffer) - _held(self._buffer, (stop,))
                if at:
                    emit(self._buffer[:at])
                    parts.append(self.take(at))
                if most is not None and sum(map(len, parts)) > most:
                    raise NotACall
                yield
                continue
            if at < 0:
                raise NotACall
            if at:
                emit(self._buffer[:at])
                parts.append(self.take(at))
            self.take(len(stop))
            return "".join(parts)

    def json(self, emit: Callable[[str], None] = lambda text: None) -> Waiting[str]:
        """One JSON value, of which only strings and brackets are looked at; `emit` gets it as it comes."""
        first = yield from self.peek()
        if first == '"':
            return (yield from self._string(emit))
        if first in _CLOSES:
            return (yield from self._nested(emit))
        word = yield from self.word(lambda character: character.isalnum() or character in "+-.", _MOST_DIGITS)
        if not word:
            raise NotACall
        emit(word)
        return word

    def _string(self, emit: Callable[[str], None]) -> Waiting[str]:
        parts, escaped = [self.take(1)], False
        emit(parts[0])
        while True:
            if not (yield from self.peek()):
                raise NotACall
            at = 0
            for at, character in enumerate(self._buffer):
                if escaped:
                    escaped = False
                elif character == "\\":
                    escaped = True
                elif character == '"':
                    parts.append(self.take(at + 1))
                    emit(parts[-1])
                    return "".join(parts)
            parts.append(self.take(at + 1))
            emit(parts[-1])

    def _nested(self, emit: Callable[[str], None]) -> Waiting[str]:
        parts: list[str] = []
        expected: list[str] = []
        while True:
            if not (yield from self.peek()):
                raise NotACall
            found = _MARKS.search(self._buffer)
            if at := found.start() if found else len(self._buffer):
                parts.append(self.take(at))
                emit(parts[-1])
                continue
            character = self._buffer[0]
            if character == '"':
                parts.append((yield from self._string(emit)))
                continue
            if character in _CLOSES:
                expected.append(_CLOSES[character])
            elif character in "}]" and expected.pop() != character:
                raise NotACall
            parts.append(self.take(1))
            emit(character)
            if not expected:
                return "".join(parts)

    # -- what is given out

    def say(self, text: str) -> None:
        if text and not (self._spaces_end and not (text := text.lstrip())):
            self._spaces_end = False
            self._text.append(text)

    def text_until(self, *marks: str) -> Waiting[bool]:
        """Give out text up to the first of the marks, of which nothing is read yet; False if none comes.

        White space in front of it is held back: it belongs to a call, if it is one.
        """
        while True:
            found = [at for mark in marks if (at := self._buffer.find(mark)) >= 0]
            end = min(found) if found else len(self._buffer) - (0 if self._ended else _held(self._buffer, marks))
            before = self._buffer[:end]
            kept = before.rstrip()
            if self._ended and not found:
                self.say(self._buffer)
                self._buffer = ""
                return False
            if kept:
                self.say(kept)
                self._buffer = self._buffer[len(kept) :]
            if found:
                self.take(len(self._buffer) - len(self._buffer.lstrip()))
                return True
            yield

    def attempt(self, body: "Waiting[None]", close: str = "") -> Waiting[bool]:
        """Read what may be calls: False if it is none, and was given out as text.

        One whose arguments are whole is one, whatever is wrong behind them. One that breaks within them, and was given
        out already, has the rest up to `close` as its arguments, as it was written.
        """
        try:
            yield from body
        except NotACall:
            if self._open and is_object("".join(self._arguments)):
                behind = self._behind.strip()
                self.complete()
                yield from self.spaces()
                if close:
                    yield from self.optional(close)
                self._pending = ""
                self.say(behind)
                return True
            if self._open and self._eager:
                yield from self._spill(close)
                return True
            self._open = False
            self._held, self._arguments = [], []
            broken, self._pending = self._pending, ""
            self.say(broken)
            return False
        self._pending = ""
        return True

    def _spill(self, close: str) -> Waiting[None]:
        self.arguments(self._behind)
        while not self._ended and not (close and close in self._buffer):
            if at := len(self._buffer) - (_held(self._buffer, (close,)) if close else 0):
                self.arguments(self.take(at))
            yield
        rest, _, self._buffer = self._buffer.partition(close) if close else (self._buffer, "", "")
        self.arguments(rest)
        self.complete()

    def begin(self, name: str, call_id: str = "", *, known: bool = False) -> None:
        """A call begins. `known`: only one of the tools may be called here, or it is none."""
        if not name or (known and name not in self.names):
            raise NotACall
        if self._count >= self._most_calls:
            self.full = True
            raise NotACall
        self._open, self._behind = True, ""
        self._give(CallDelta(self._count, call_id or self._new_id(), name))

    def arguments(self, text: str) -> None:
        """The next piece of the arguments, which are an object in JSON."""
        if text:
            self._behind = ""
            self._arguments.append(text)
            self._give(CallDelta(self._count, arguments=text))

    def complete(self) -> None:
        """The call ends."""
        whole = "".join(self._arguments)
        if not self._eager and not is_object(whole):
            raise NotACall
        self._calls += self._held
        self._held, self._arguments, self._pending = [], [], ""
        self._count += 1
        self._open, self._spaces_end = False, True
        if self._count >= self._most_calls:
            self.full = True

    def _give(self, delta: CallDelta) -> None:
        if self._eager:
            self._calls.append(delta)
            self._pending = ""
        else:
            self._held.append(delta)

    def call_object(self, *, known: bool = False, make_id: Callable[[str], str] = lambda told: "") -> Waiting[None]:
        """A call as `{"name": ..., "arguments": {...}}`, in any order; Llama says `parameters`."""
        yield from self.literal("{")
        name = call_id = ""
        held: list[str] = []
        told = begun = False

        def give(text: str) -> None:
            if begun:
                self.arguments(text)
            else:
                held.append(text)

        following = yield from self.spaces()
        while following != "}":
            if following != '"':
                raise NotACall
            key = loads((yield from self.json()))
            yield from self.spaces()
            yield from self.literal(":")
            first = yield from self.spaces()
            if key == "name" and not name:
                value = loads((yield from self.json()))
                if not isinstance(value, str):
                    raise NotACall
                name = value
            elif key in ("arguments", "parameters") and not told:
                told = True
                if name and not begun:
                    self.begin(name, make_id(call_id), known=known)
                    begun = True
                if first == "{":
                    yield from self.json(give)
                else:
                    give(_arguments_of((yield from self.json())))
            else:
                value = loads((yield from self.json()))
                if key == "id" and isinstance(value, str):
                    call_id = value
            if (following := (yield from self.spaces())) == ",":
                self.take(1)
                if (following := (yield from self.spaces())) == "}":
                    raise NotACall
            elif following != "}":
                raise NotACall
        if not begun:
            self.begin(name, make_id(call_id), known=known)
            begun = True
            self.arguments("".join(held) if told else "{}")
        self.take(1)
        self.complete()


def loads(text: str) -> Any:
    """A JSON value; NotACall for what is none."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        raise NotACall from None


def dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _arguments_of(text: str) -> str:
    """Arguments that aren't written as an object: as a text that holds one, or not at all."""
    value = loads(text)
    if value is None:
        return "{}"
    if isinstance(value, str) and (not value or is_object(value)):
        return value or "{}"
    raise NotACall


def is_object(text: str) -> bool:
    try:
        return isinstance(loads(text), dict)
    except NotACall:
        return False


def _held(text: str, marks: Collection[str]) -> int:
    """Length of the longest end of the text that one of the marks may begin with."""
    return max((_overlap(text, mark) for mark in marks), default=0)


def _overlap(text: str, mark: str) -> int:
    for length in range(min(len(text), len(mark) - 1), 0, -1):
        if text.endswith(mark[:length]):
            return length
    return 0
