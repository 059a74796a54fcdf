"""What is read of an answer that may call tools."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CallDelta:
    """What is new of the answer's tool call number `index`: `id` and `name` with its first piece, then `arguments`."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class Read:
    """New text of the answer, and new pieces of calls; the text comes before the calls."""

    text: str = ""
    calls: tuple[CallDelta, ...] = ()


@dataclass(frozen=True, slots=True)
class Call:
    """A whole call, as dialects write it: `arguments` is an object."""

    name: str
    arguments: dict[str, object]
    id: str = ""
