"""What a request went through, as the component that worked on it saw it, and the ring that keeps it for a while.

While a request runs, `Track` notes intervals at the price of an append. Whoever asks gets a `Timeline`, which is also
what components tell each other; it may come from a pod of another make, so every field is bounded.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Annotated, Final, Generic, Protocol, TypeAlias, TypeVar, cast

import msgspec
from msgspec import Meta

from ams_common.printable import printable

TIMELINES_PATH: Final = "/internal/timelines"

MOST_INTERVALS: Final = 64
MOST_NOTED: Final = 4 * MOST_INTERVALS  # entries of a `Track`
MOST_FACTS: Final = 40
MOST_BESIDE: Final = 64
LONGEST_TEXT: Final = 300

Fact: TypeAlias = str | int | float | bool
Facts: TypeAlias = dict[str, Fact]

PackedTrack: TypeAlias = "Sequence[str | float | bytes | None]"
"""What a `Track` holds."""

_Name = Annotated[str, Meta(max_length=64)]
_Id = Annotated[str, Meta(max_length=128)]
_Text = Annotated[str, Meta(max_length=LONGEST_TEXT)]
_Seconds = Annotated[float, Meta(ge=0, le=1e9)]
_Count = Annotated[int, Meta(ge=0, le=10**12)]
_Facts = Annotated[
    dict[_Name, Annotated[str, Meta(max_length=LONGEST_TEXT)] | int | float | bool], Meta(max_length=MOST_FACTS)
]


class Interval(msgspec.Struct, frozen=True, omit_defaults=True):
    """A phase of a request. `start` is in seconds since the request came."""

    name: Annotated[_Name, Meta(description="What the request did or waited for.")]
    start: Annotated[_Seconds, Meta(description="Seconds since the request came.")]
    seconds: Annotated[_Seconds, Meta(description="How long it took.")]
    facts: Annotated[_Facts, Meta(description="What else was noted.")] = {}

    def text(self, name: str) -> str:
        """A fact as a text; empty if there is none."""
        value = self.facts.get(name)
        return value if isinstance(value, str) else ""

    def number(self, name: str) -> float:
        """A fact as a number; 0 if there is none."""
        return number_of(self.facts, name)


class Beside(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What a pod computed for one key while a request waited (`stage` prompt) or was answered (`stage` answer).

    `key` is an opaque id, empty for all who told none. Tokens and seconds are those of the key's requests, the
    request's own part included where `own`.
    """

    key: Annotated[_Id, Meta(description="Opaque id of a key; empty for requests that told none.")] = ""
    stage: Annotated[_Name, Meta(description="`prompt` before the first token, `answer` after it.")] = "prompt"
    own: Annotated[bool, Meta(description="Whether it is the key of the request itself.")] = False
    prompt_tokens: Annotated[_Count, Meta(description="Tokens of prompts that were read.")] = 0
    prompt_seconds: Annotated[_Seconds, Meta(description="How long that took.")] = 0.0
    answer_tokens: Annotated[_Count, Meta(description="Tokens of answers that were made.")] = 0
    answer_seconds: Annotated[_Seconds, Meta(description="How long that took.")] = 0.0
    media_seconds: Annotated[_Seconds, Meta(description="How long its media were encoded.")] = 0.0


class Timeline(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One request in one component. `started` is Unix time, `seconds` how long it took, or has taken if `running`."""

    component: Annotated[_Name, Meta(description="`gateway` or `pod`.")]
    id: Annotated[_Id, Meta(description="Id of the request.")]
    started: Annotated[float, Meta(description="Unix time when it came, in seconds.")]
    seconds: Annotated[_Seconds, Meta(description="How long it took, or has taken so far.")]
    running: Annotated[bool, Meta(description="Whether it still runs.")] = False
    model: Annotated[_Text, Meta(description="Name of the model.")] = ""
    key: Annotated[_Id, Meta(description="Opaque id of its key.")] = ""
    pod: Annotated[_Text, Meta(description="Pod that it went to.")] = ""
    route: Annotated[_Text, Meta(description="Route of the API.")] = ""
    code: Annotated[int, Meta(ge=0, le=999, description="HTTP status of the answer; 499 if the client left.")] = 0
    error: Annotated[_Name, Meta(description="Code of its error.")] = ""
    message: Annotated[_Text, Meta(description="Sentence of its error.")] = ""
    intervals: Annotated[
        tuple[Interval, ...], Meta(max_length=MOST_INTERVALS, description="What it did and waited for, in order.")
    ] = ()
    beside: Annotated[
        tuple[Beside, ...], Meta(max_length=MOST_BESIDE, description="What a pod computed meanwhile, by key.")
    ] = ()
    facts: Annotated[_Facts, Meta(description="What else was noted.")] = {}

    def total(self, *names: str) -> float:
        """Seconds of all intervals of these names."""
        return sum(each.seconds for each in self.intervals if each.name in names)

    def named(self, name: str) -> list[Interval]:
        return [each for each in self.intervals if each.name == name]

    def number(self, name: str) -> float:
        """A fact as a number; 0 if there is none."""
        return number_of(self.facts, name)

    def text(self, name: str) -> str:
        """A fact as a text; empty if there is none."""
        value = self.facts.get(name)
        return value if isinstance(value, str) else ""


class Track(list["str | float | bytes | None"]):
    """Intervals of one request while it runs: name, start, end, and facts as JSON or None, of each in turn.

    Flat, as it costs an append and nothing to keep. Times are those of one monotonic clock, in seconds. What doesn't
    fit any more lengthens the last interval of its name, or else is dropped.
    """

    __slots__ = ()

    def note(self, name: str, start: float, end: float, facts: Facts | None = None) -> None:
        if len(self) < MOST_NOTED:
            self += (name, start, end, None if facts is None else msgspec.json.encode(facts))
            return
        for index in range(len(self) - 4, -1, -4):
            if self[index] == name:
                self[index + 2] = cast(float, self[index + 2]) + (end - start)
                return


def intervals_of(track: PackedTrack, started: float) -> tuple[Interval, ...]:
    """As a timeline has them; `started` is when the request came, by the same clock."""
    items = iter(track)
    return tuple(
        interval(
            cast(str, name),
            cast(float, start) - started,
            cast(float, end) - cast(float, start),
            None if facts is None else msgspec.json.decode(cast(bytes, facts), type=Facts),
        )
        for name, start, end, facts in zip(items, items, items, items, strict=True)
    )


class Kept(Protocol):
    """What a ring keeps: `at` is when it ended, in Unix time, `size` about how many bytes it takes."""

    @property
    def id(self) -> str: ...
    @property
    def at(self) -> float: ...
    @property
    def size(self) -> int: ...


K = TypeVar("K", bound=Kept)


class Ring(Generic[K]):
    """The newest entries, bounded in number and in bytes.

    Ids are what clients chose, so that nothing is built on them. Entries should be out of the garbage collector's sight
    (`gc=False`): thousands of objects that live for a while make it look at the whole process again and again.
    """

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._entries: deque[K] = deque()
        self._bytes = 0
        self.forgotten = False  # whether anything had to go

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, entry: K) -> None:
        entries = self._entries
        entries.append(entry)
        self._bytes += entry.size
        while len(entries) > self._most or (self._bytes > self._most_bytes and len(entries) > 1):
            self._bytes -= entries.popleft().size
            self.forgotten = True

    def find(self, id: str) -> K | None:
        """The newest entry of this id."""
        return next((entry for entry in reversed(self._entries) if entry.id == id), None)

    def newest_first(self) -> Iterator[K]:
        return reversed(self._entries)

    @property
    def reaches_back_to(self) -> float | None:
        """When the oldest entry ended; None if there is none."""
        return self._entries[0].at if self._entries else None


def interval(name: str, start: float, seconds: float, facts: Facts | None = None) -> Interval:
    """An interval within its bounds."""
    return Interval(name, _seconds(start), _seconds(seconds), bounded(facts) if facts else {})


def bounded(facts: Facts) -> Facts:
    """Facts within their bounds: short, printable, finite."""
    kept: Facts = {}
    for name, value in list(facts.items())[:MOST_FACTS]:
        if isinstance(value, str):
            kept[name] = printable(value, LONGEST_TEXT)
        elif isinstance(value, float):
            kept[name] = round(value, 6) if abs(value) < 1e15 else 0.0
        elif abs(value) < 1 << 53:
            kept[name] = value
    return kept


def number_of(facts: Facts, name: str) -> float:
    value = facts.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0


def _seconds(value: float) -> float:
    return round(min(max(value, 0.0), 1e9), 6)
