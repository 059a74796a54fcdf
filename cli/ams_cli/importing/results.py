"""What an import gives: drafts of ModelDeployments, and what is to be said of them."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any


class ForeignError(ValueError):
    """A document that isn't what it says it is; the message is a sentence that begins with the path."""


class NotImported(ValueError):
    """A model that can't be served here, or not from what its document tells; the message is a sentence."""


@dataclass(frozen=True, slots=True)
class Note:
    """Something to say of a field of the document. `lost`: it has no counterpart, so that somebody should look."""

    where: str
    text: str
    lost: bool = False


@dataclass(slots=True)
class Draft:
    """A ModelDeployment that is being put together. `title` says what it was."""

    title: str
    name: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    spec: dict[str, Any] = field(default_factory=dict)
    aliases: list[str] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)

    def set(self, path: str, value: Any) -> None:
        """Give a field of the spec its value: `set("limits.contextTokens", 4096)`. Nothing is set to nothing."""
        if value in (None, "", {}, []):
            return
        *parents, last = path.split(".")
        place = self.spec
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value

    def get(self, path: str) -> Any:
        place: Any = self.spec
        for part in path.split("."):
            place = place.get(part) if isinstance(place, dict) else None
        return place

    def say(self, where: str, text: str) -> None:
        self.notes.append(Note(where, text))

    def lose(self, where: str, text: str = "") -> None:
        self.notes.append(Note(where, text, lost=True))

    def lose_all(self, left: Iterable[tuple[str, str]]) -> None:
        for path, value in left:
            self.lose(f"{path} ({value})" if value else path)


@dataclass(frozen=True, slots=True)
class Refused:
    """A model that wasn't imported, and why."""

    title: str
    why: str


@dataclass(slots=True)
class Outcome:
    """All that came of some documents. `notes` are about a file as a whole."""

    drafts: list[Draft] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
