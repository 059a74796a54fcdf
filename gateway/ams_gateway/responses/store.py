"""Where responses are kept: in this gateway's memory, and in Redis for all gateways where there is one.

Whose a response is, is a part of its place: nobody finds another key's. A response that is used is kept anew.
"""

import asyncio
import collections
import hashlib
import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

import msgspec
from ams_common.outside import InvalidJson, read_json

from ams_gateway.redis_link import PREFIX, RedisAway, RedisLink
from ams_gateway.responses.kept import KeptResponse

_PART_BYTES = 128 << 10  # what one call takes to Redis: limits share the connection, and must not wait behind more
_MOST_PARTS = 64
_TRIES = 3  # for what another gateway may be about to write
_PAUSE_SECONDS = 0.05

logger = logging.getLogger("ams_gateway")


class Store(Protocol):
    """No method raises."""

    def note(self, owner: str, kept: KeptResponse) -> None:
        """Keep it in this process, at once."""

    async def share(self, owner: str, kept: KeptResponse) -> None:
        """Keep it where other gateways find it."""

    async def get(self, owner: str, response_id: str) -> KeptResponse | None: ...

    async def delete(self, owner: str, response_id: str) -> bool:
        """Whether there was one."""

    def tidy(self) -> None:
        """Forget what was kept for its time."""


class _Shelf:
    """One owner's, the least recently used first, which is also the one that ends first."""

    def __init__(self) -> None:
        self.responses: collections.OrderedDict[str, tuple[KeptResponse, float]] = collections.OrderedDict()
        self.size = 0

    def drop(self, response_id: str) -> bool:
        held = self.responses.pop(response_id, None)
        if held is not None:
            self.size -= held[0].size
        return held is not None


class MemoryStore:
    """At most `most_bytes` of all owners. Where it is full, whoever holds most loses the least recently used."""

    def __init__(self, *, seconds: float, most_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self._most_bytes, self._clock = seconds, most_bytes, clock
        self._shelves: dict[str, _Shelf] = {}
        self.size = 0

    def note(self, owner: str, kept: KeptResponse) -> None:
        if kept.size > self._most_bytes:
            return
        self.tidy()
        shelf = self._shelves.setdefault(owner, _Shelf())
        self._drop(shelf, kept.id)
        shelf.responses[kept.id] = (kept, self._clock() + self.seconds)
        shelf.size += kept.size
        self.size += kept.size
        while self.size > self._most_bytes:
            largest = max(self._shelves.values(), key=lambda each: each.size)
            self._drop(largest, next(iter(largest.responses)))
        self._forget_empty()

    async def share(self, owner: str, kept: KeptResponse) -> None:
        """There is nobody to share it with."""

    async def get(self, owner: str, response_id: str) -> KeptResponse | None:
        return self.look(owner, response_id)

    def look(self, owner: str, response_id: str) -> KeptResponse | None:
        """As `get`, at once."""
        shelf = self._shelves.get(owner)
        if shelf is None or (held := shelf.responses.get(response_id)) is None:
            return None
        kept, until = held
        now = self._clock()
        if until <= now:
            self._drop(shelf, response_id)
            return None
        shelf.responses[response_id] = (kept, now + self.seconds)
        shelf.responses.move_to_end(response_id)
        return kept

    async def delete(self, owner: str, response_id: str) -> bool:
        return self.forget(owner, response_id)

    def forget(self, owner: str, response_id: str) -> bool:
        """As `delete`, at once."""
        shelf = self._shelves.get(owner)
        return shelf is not None and self._drop(shelf, response_id)

    def tidy(self) -> None:
        now = self._clock()
        for shelf in self._shelves.values():
            while shelf.responses and next(iter(shelf.responses.values()))[1] <= now:
                self._drop(shelf, next(iter(shelf.responses)))
        self._forget_empty()

    def _drop(self, shelf: _Shelf, response_id: str) -> bool:
        before = shelf.size
        dropped = shelf.drop(response_id)
        self.size += shelf.size - before
        return dropped

    def _forget_empty(self) -> None:
        for owner in [owner for owner, shelf in self._shelves.items() if not shelf.responses]:
            del self._shelves[owner]


class SharedStore:
    """In this process, and in Redis for all gateways: what one keeps, another finds. Without Redis as `MemoryStore`.

    A long response lies there in parts. Redis keeps all for their time, and lets go of the least recently used where
    its own memory is bounded so (`maxmemory-policy`).
    """

    def __init__(self, link: RedisLink, memory: MemoryStore) -> None:
        self._link, self._memory = link, memory
        self._life = int(memory.seconds * 1000)

    def note(self, owner: str, kept: KeptResponse) -> None:
        self._memory.note(owner, kept)

    def tidy(self) -> None:
        self._memory.tidy()

    async def share(self, owner: str, kept: KeptResponse) -> None:
        data = msgspec.json.encode(kept)
        parts = [data[at : at + _PART_BYTES] for at in range(0, len(data), _PART_BYTES)]
        if len(parts) > _MOST_PARTS:
            return
        place = _place(owner, kept.id)
        try:
            for number, part in enumerate(parts):
                await self._link.call("SET", f"{place}:{number}", part, "PX", self._life)
            await self._link.call("SET", place, len(parts), "PX", self._life)  # last: it says that all are there
        except RedisAway as error:
            logger.debug("a response isn't shared: %s", error)

    async def get(self, owner: str, response_id: str) -> KeptResponse | None:
        place = _place(owner, response_id)
        if (kept := self._memory.look(owner, response_id)) is not None:
            await self._renew(place)
            return kept
        for left in reversed(range(_TRIES)):
            if (kept := await self._fetch(place)) is not None:
                self._memory.note(owner, kept)
                return kept
            if left and self._link.up:
                await asyncio.sleep(_PAUSE_SECONDS)
        return None

    async def delete(self, owner: str, response_id: str) -> bool:
        here = self._memory.forget(owner, response_id)
        place = _place(owner, response_id)
        try:
            parts = await self._parts(place)
            there = await self._link.call("DEL", place, *(f"{place}:{number}" for number in range(parts)))
        except RedisAway:
            return here
        return here or bool(there)

    async def _fetch(self, place: str) -> KeptResponse | None:
        try:
            parts = await self._parts(place)
            if not parts:
                return None
            found = [await self._link.call("GET", f"{place}:{number}") for number in range(parts)]
        except RedisAway:
            return None
        if not all(isinstance(part, bytes) for part in found):
            return None
        try:
            kept = read_json(b"".join(found), KeptResponse, max_bytes=_MOST_PARTS * _PART_BYTES)
        except InvalidJson as error:
            logger.warning("a response in Redis can't be read: it %s", error)
            return None
        await self._renew(place, parts)
        return kept

    async def _parts(self, place: str) -> int:
        return min(_number(await self._link.call("GET", place)), _MOST_PARTS)

    async def _renew(self, place: str, parts: int | None = None) -> None:
        try:
            parts = await self._parts(place) if parts is None else parts
            for each in (place, *(f"{place}:{number}" for number in range(parts))):
                await self._link.call("PEXPIRE", each, self._life)
        except RedisAway:
            return


def _number(value: Any) -> int:
    return int(value) if isinstance(value, bytes) and value.isdigit() and len(value) < 4 else 0


def _place(owner: str, response_id: str) -> str:
    whose = hashlib.sha256(owner.encode("utf-8", "surrogateescape")).hexdigest()[:32]
    return f"{PREFIX}response:{whose}:{response_id}"


def open_store(link: RedisLink | None, *, seconds: float, most_bytes: int) -> Store:
    """The store of a gateway with this Redis, if it has one."""
    memory = MemoryStore(seconds=seconds, most_bytes=most_bytes)
    return memory if link is None else SharedStore(link, memory)
