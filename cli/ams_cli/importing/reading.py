"""A foreign document, read so that nothing of it is lost: what no one has taken is named at the end."""

import re
from collections.abc import Iterator
from typing import Any, TypeVar

from ams_common.printable import printable
from ams_common.resource.check import join

from ams_cli.importing.results import ForeignError

T = TypeVar("T")
D = TypeVar("D")

_SECRET = re.compile(r"key|token|secret|passw|credential|auth", re.IGNORECASE)
_WORDS = {dict: "a mapping", list: "a list", str: "text", int: "a whole number", bool: "true or false"}
_SHOWN = 60  # characters of a value in a comment


class Section:
    """A mapping of a document. `take` reads a field and remembers that it was read; `left` names the others.

    A field that is null counts as absent, as Kubernetes reads it. ForeignError names a field of another type.
    """

    def __init__(self, value: Any, path: str = "") -> None:
        if not isinstance(value, dict):
            raise ForeignError(f"{path or 'the document'}: expected a mapping, got {_kind(value)}")
        self.path = path
        self._value: dict[str, Any] = {str(key): item for key, item in value.items()}
        self._taken: set[str] = set()
        self._sections: dict[str, Section] = {}

    def __contains__(self, name: str) -> bool:
        return self._value.get(name) is not None

    def names(self) -> list[str]:
        return list(self._value)

    def at(self, name: str) -> str:
        """The path of a field."""
        return join(self.path, name)

    def text(self, name: str, default: str = "") -> str:
        """A field's text; numbers and booleans are written out, as a shell would get them."""
        value = self._value.get(name)
        if isinstance(value, bool | int | float):
            self._taken.add(name)
            return str(value).lower() if isinstance(value, bool) else str(value)
        return self._take(name, str, default)

    def number(self, name: str) -> int | None:
        return self._take(name, int, None)

    def flag(self, name: str) -> bool:
        return self._take(name, bool, False)

    def any(self, name: str) -> Any:
        """A field of several types, as it is."""
        self._taken.add(name)
        return self._value.get(name)

    def items(self, name: str) -> list[Any]:
        """A list as it is."""
        return self._take(name, list, [])

    def texts(self, name: str) -> list[str]:
        """A list of texts."""
        found = self.items(name)
        for index, item in enumerate(found):
            if not isinstance(item, str | int | float):
                raise ForeignError(f"{self.at(name)}[{index}]: expected text, got {_kind(item)}")
        return [str(item) for item in found]

    def mapping(self, name: str) -> dict[str, Any]:
        """A mapping as it is, all of it taken."""
        return self._take(name, dict, {})

    def section(self, name: str) -> "Section":
        """A mapping whose fields are taken one by one; empty where there is none."""
        if name not in self._sections:
            self._sections[name] = Section(self._value.get(name) or {}, self.at(name))
            self._taken.add(name)
        return self._sections[name]

    def sections(self, name: str) -> "list[Section]":
        """A list of mappings. What isn't taken of them is the caller's to tell."""
        return [Section(item, f"{self.at(name)}[{index}]") for index, item in enumerate(self.items(name))]

    def ignore(self, *names: str) -> None:
        """Take fields that say nothing of what is wanted, as a status does."""
        self._taken.update(names)

    def left(self) -> Iterator[tuple[str, str]]:
        """(path, value in short or nothing) of each field that nobody has taken."""
        for name, value in self._value.items():
            if (inner := self._sections.get(name)) is not None:
                yield from inner.left()
            elif name not in self._taken and value not in (None, {}, [], ""):
                yield self.at(name), shown(name, value)

    def _take(self, name: str, kind: type[T], default: D) -> T | D:
        self._taken.add(name)
        value = self._value.get(name)
        if value is None:
            return default
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ForeignError(f"{self.at(name)}: expected {_WORDS[kind]}, got {_kind(value)}")
        return value


def shown(name: str, value: Any) -> str:
    """A value in a comment: short, on one line, and nothing of what may be secret."""
    if _SECRET.search(name) or isinstance(value, dict | list):
        return ""
    return printable(str(value), _SHOWN)


def _kind(value: Any) -> str:
    return _WORDS.get(type(value), "null" if value is None else type(value).__name__)
