"""Where answers are kept: in this gateway's memory, and in Redis for all gateways where there is one."""

import collections
import logging
import time
from collections.abc import Callable
from typing import Protocol

import msgspec
from ams_common.outside import InvalidJson, read_json

from ams_gateway.answers.kept import KeptAnswer
from ams_gateway.redis_link import PREFIX, RedisAway, RedisLink

_MOST_SHARED_BYTES = 256 << 10

logger = logging.getLogger("ams_gateway")


class Store(Protocol):
    """`key` is one of `ams_common.answer_cache`, which holds the model's name. No method raises."""

    async def get(self, model: str, key: str) -> KeptAnswer | None: ...

    async def put(self, model: str, key: str, answer: KeptAnswer, *, seconds: float, most_bytes: int) -> None:
        """Keep it for so long, in at most so many bytes for all answers of the model."""

    def keep_only(self, models: set[str]) -> None:
        """Forget answers of models that are gone, or no longer keep any."""


class _Shelf:
    """Answers of one model: the least recently used go first."""

    def __init__(self) -> None:
        self.answers: collections.OrderedDict[str, tuple[KeptAnswer, float]] = collections.OrderedDict()
        self.size = 0

    def drop(self, key: str) -> None:
        if (held := self.answers.pop(key, None)) is not None:
            self.size -= held[0].size


class MemoryStore:
    """In this process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._shelves: dict[str, _Shelf] = {}

    async def get(self, model: str, key: str) -> KeptAnswer | None:
        return self.look(model, key)

    def look(self, model: str, key: str) -> KeptAnswer | None:
        """As `get`, at once."""
        shelf = self._shelves.get(model)
        if shelf is None or (held := shelf.answers.get(key)) is None:
            return None
        answer, until = held
        if until <= self._clock():
            shelf.drop(key)
            return None
        shelf.answers.move_to_end(key)
        return answer

    async def put(self, model: str, key: str, answer: KeptAnswer, *, seconds: float, most_bytes: int) -> None:
        shelf = self._shelves.setdefault(model, _Shelf())
        shelf.drop(key)
        if answer.size > most_bytes:
            return
        shelf.answers[key] = (answer, self._clock() + seconds)
        shelf.size += answer.size
        while shelf.size > most_bytes:
            shelf.drop(next(iter(shelf.answers)))

    def keep_only(self, models: set[str]) -> None:
        """As in `Store`."""
        for name in self._shelves.keys() - models:
            del self._shelves[name]

    @property
    def size(self) -> int:
        """Bytes of all answers."""
        return sum(shelf.size for shelf in self._shelves.values())


class SharedStore:
    """In this process, and in Redis for all gateways: what one keeps, another finds. Without Redis as `MemoryStore`.

    Redis keeps an answer for its time, and lets go of the least recently used where its own memory is bounded so
    (`maxmemory-policy`). Answers that would hold up the calls of limits, which share the connection, stay here.
    """

    def __init__(self, link: RedisLink, memory: MemoryStore | None = None) -> None:
        self._link = link
        self._memory = memory or MemoryStore()

    async def get(self, model: str, key: str) -> KeptAnswer | None:
        if (answer := self._memory.look(model, key)) is not None:
            return answer
        try:
            data = await self._link.call("GET", _place(model, key))
        except RedisAway:
            return None
        if not isinstance(data, bytes):
            return None
        try:
            return read_json(data, KeptAnswer, max_bytes=2 * _MOST_SHARED_BYTES)
        except InvalidJson as error:
            logger.warning("an answer in Redis can't be read: it %s", error)
            return None

    async def put(self, model: str, key: str, answer: KeptAnswer, *, seconds: float, most_bytes: int) -> None:
        await self._memory.put(model, key, answer, seconds=seconds, most_bytes=most_bytes)
        if answer.size > min(_MOST_SHARED_BYTES, most_bytes):
            return
        try:
            data = msgspec.json.encode(answer)
            await self._link.call("SET", _place(model, key), data, "PX", int(seconds * 1000))
        except RedisAway as error:
            logger.debug("an answer isn't shared: %s", error)

    def keep_only(self, models: set[str]) -> None:
        self._memory.keep_only(models)


def _place(model: str, key: str) -> str:
    return f"{PREFIX}answer:{model}:{key}"


def open_store(link: RedisLink | None) -> Store:
    """The store of a gateway with this Redis, if it has one."""
    return MemoryStore() if link is None else SharedStore(link)
