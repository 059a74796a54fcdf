"""What the fake hub does wrong on demand: per path, for a number of requests."""

import fnmatch
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Kind = Literal[
    "status",  # answers `status`, with Retry-After if `retry_after` is set
    "cut",  # closes the connection after `after` bytes of the body
    "stall",  # sends `after` bytes of the body, then nothing until it is released or the client leaves
    "corrupt",  # sends one wrong byte, at `after`
    "slow",  # sends `rate` bytes a second
    "no-ranges",  # ignores Range headers
    "too-long",  # sends `after` more bytes than the file has
]
_BODIES = ("cut", "stall", "corrupt", "slow", "no-ranges", "too-long")


@dataclass
class Fault:
    """`where` is a pattern of the file's path, or `api` for listings. `times` requests get it; -1 is all of them."""

    kind: Kind
    where: str = "*"
    times: int = 1
    status: int = 500
    retry_after: float | None = None
    after: int = 0
    rate: int = 0
    methods: tuple[str, ...] = ("GET",)
    hits: int = field(default=0, init=False)

    def matches(self, where: str, method: str) -> bool:
        return method in self.methods and self.times != 0 and fnmatch.fnmatchcase(where, self.where)

    def take(self) -> None:
        self.hits += 1
        if self.times > 0:
            self.times -= 1

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Faults:
    """The faults that wait for their requests."""

    def __init__(self) -> None:
        self._all: list[Fault] = []

    def add(self, fault: Fault) -> Fault:
        self._all.append(fault)
        return fault

    def clear(self) -> None:
        self._all.clear()

    def status(self, where: str, method: str) -> Fault | None:
        """The fault that answers this request instead of the hub."""
        return self._take(where, method, ("status",))

    def body(self, where: str, method: str) -> Fault | None:
        """The fault of the body that this request gets."""
        return self._take(where, method, _BODIES)

    def _take(self, where: str, method: str, kinds: tuple[str, ...]) -> Fault | None:
        for fault in self._all:
            if fault.kind in kinds and fault.matches(where, method):
                fault.take()
                return fault
        return None
