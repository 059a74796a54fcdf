"""What a gateway remembers of responses: those that a request goes on from, and those that are kept."""

import asyncio
from collections.abc import Sequence

import msgspec
from ams_common.errors import ApiError
from ams_common.printable import printable

from ams_gateway.responses.kept import LONGEST_CHAIN, KeptResponse, items_of, response_of, valid_id
from ams_gateway.responses.recording import ResponseRecorder
from ams_gateway.responses.references import item_of, items_in, response_of_item, with_items
from ams_gateway.responses.store import Store

_PARTS_OF_THE_ROOM = 8  # one response may take so much of what all may take
_LARGEST_BYTES = 6 << 20


class Chain:
    """A response to go on from, and those before it, the oldest first."""

    def __init__(self, responses: Sequence[KeptResponse]) -> None:
        self.responses = responses
        self.ids = tuple(kept.id for kept in responses)

    def items(self) -> bytes:
        """All that was asked and answered, as a JSON list of items."""
        return items_of(self.responses)


NO_CHAIN = Chain(())


class Keeping:
    """One request whose response is to be kept. `recorder` takes it as it passes."""

    def __init__(self, store: Store, owner: str, given: bytes, previous: Sequence[str], most_bytes: int) -> None:
        self._store, self._owner = store, owner
        self._given, self._previous = given, previous
        self._most_bytes = most_bytes
        self._kept: KeptResponse | None = None
        self.recorder = ResponseRecorder(most_bytes, self._take)

    def _take(self, response: bytes) -> None:
        kept = response_of(response, self._given, self._previous)
        if kept is not None and kept.size <= self._most_bytes:
            self._kept = kept
            self._store.note(self._owner, kept)

    async def share(self) -> None:
        """So that other gateways find it."""
        if self._kept is not None:
            await self._store.share(self._owner, self._kept)


class ResponseMemory:
    def __init__(self, store: Store, *, seconds: float, most_bytes: int) -> None:
        self._store = store
        self._seconds = seconds
        self.largest = min(_LARGEST_BYTES, most_bytes // _PARTS_OF_THE_ROOM)
        """Bytes of a response and its input together; a larger one isn't kept."""

    async def chain(self, owner: str, response_id: str) -> Chain:
        """A response and all before it. ApiError `previous_response_not_found`."""
        last = await self._store.get(owner, response_id) if valid_id(response_id) else None
        if last is None:
            raise self._missing(response_id)
        if len(last.previous) >= LONGEST_CHAIN:
            raise ApiError(
                "invalid_parameter",
                f"previous_response_id: {LONGEST_CHAIN} responses go on from one another already; begin anew.",
                param="previous_response_id", limit=LONGEST_CHAIN,
            )  # fmt: skip
        before = await asyncio.gather(*(self._store.get(owner, each) for each in last.previous))
        found = [kept for kept in before if kept is not None]
        if len(found) < len(last.previous):
            raise self._missing(response_id)
        return Chain([*found, last])

    async def find(self, owner: str, response_id: str) -> KeptResponse:
        """ApiError `response_not_found`."""
        kept = await self._store.get(owner, response_id) if valid_id(response_id) else None
        if kept is None:
            raise _unknown(response_id)
        return kept

    async def resolve(self, owner: str, given: bytes) -> bytes:
        """A request's input with the items that it names by `item_reference`. ApiError `response_not_found`."""
        items = items_in(given)
        found: dict[str, msgspec.Raw] = {}
        for number, (_, name) in enumerate(items):
            if not name or name in found:
                continue
            response_id = response_of_item(name)
            kept = await self._store.get(owner, response_id) if response_id else None
            item = item_of(kept, name) if kept is not None else None
            if item is None:
                raise ApiError(
                    "response_not_found",
                    f"Item with id {printable(name, 100)!r} not found: its response was not stored, or is kept no "
                    "longer; send the item itself.",
                    param=f"input[{number}].id",
                )
            found[name] = item
        return with_items(items, found) if found else given

    async def delete(self, owner: str, response_id: str) -> None:
        """ApiError `response_not_found`."""
        if not valid_id(response_id) or not await self._store.delete(owner, response_id):
            raise _unknown(response_id)

    def keeping(self, owner: str, given: bytes, chain: Chain) -> Keeping:
        """For a request with this `input`, a JSON list of items."""
        return Keeping(self._store, owner, given, chain.ids, self.largest)

    def tidy(self) -> None:
        """Forget what was kept for its time."""
        self._store.tidy()

    def _missing(self, response_id: str) -> ApiError:
        return ApiError(
            "previous_response_not_found",
            f"Previous response with id {printable(response_id, 100)!r} not found, or one before it: responses are "
            f"kept for {self._seconds:g} seconds after their last use, if there is room; send the whole input instead.",
            param="previous_response_id",
        )


def _unknown(response_id: str) -> ApiError:
    return ApiError("response_not_found", f"Response with id {printable(response_id, 100)!r} not found.", param="id")
