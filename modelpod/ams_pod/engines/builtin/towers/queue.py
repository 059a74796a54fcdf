"""Media on their way into a batch: pieces of them go through the towers, one bounded call at a time.

Requests with media wait here before they join the queue of those that are ready to be read; requests without media
pass them by. What a piece is, and which tower takes it, is the family's; see `Embedder`.
"""

import collections
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from ams_pod.engines.builtin.memory.out_of_memory import is_out_of_memory
from ams_pod.engines.builtin.prompts.pieces import Piece
from ams_pod.engines.port import Prepared, Ticket
from ams_pod.shares import FairShares, Share


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """What a tower makes of one piece: `embeds` [tokens, hidden] in the places of its placeholders.

    `deep` [layers, tokens, hidden] is added to the hidden states behind each of the decoder's first layers (DeepStack,
    arXiv 2406.04334); None for towers that make none.
    """

    embeds: Tensor
    deep: Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """What the decoder reads instead of token ids: `embeds` [tokens, hidden] and `positions` [3, tokens].

    `embeds` is None for a prompt whose media are in the cache already. `positions` is None where they are 0, 1, 2 …;
    new tokens lie at their index + `delta`. `deep` is as in `Features`, of all tokens: zero where they are not a
    medium's.
    """

    embeds: Tensor | None
    positions: Tensor | None = None
    delta: int = 0
    deep: Tensor | None = None


class Embedder(Protocol):
    """How a family turns a request's media into a prompt. For the compute thread."""

    def pieces(self, prepared: Prepared) -> Sequence[Piece]: ...

    def encode(self, pieces: Sequence[Piece], between: Callable[[], None]) -> list[Features]:
        """One tower call: the features of each piece. All are of one tower.

        `between` is called before each of the tower's layers, and may run steps of the engine.
        """

    def merge(self, prepared: Prepared, features: Sequence[Features]) -> Prompt:
        """The prompt, from the features of all its pieces in their order."""

    def without_media(self, prepared: Prepared) -> tuple[Prompt, int]:
        """The prompt without embeddings, and the index behind its last medium: from there on ids are enough."""


@dataclass(slots=True, eq=False)
class Visit:
    """A request in the towers: the pieces it still has to encode, and the features of those that are done."""

    ticket: Ticket
    pieces: collections.deque[Piece]
    features: list[Features] = field(default_factory=list)
    own_call: bool = False  # its last call failed, maybe because of another request's pieces
    when_idle: bool = False  # memory ran out: it waits until nothing runs


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request left the towers: with its prompt, or with the error of its own."""

    ticket: Ticket
    prompt: Prompt | None = None
    error: Exception | None = None


class Towers:
    """The queue in front of an `Embedder`'s towers. `shares` tells whose media come next."""

    def __init__(self, embedder: Embedder, shares: FairShares) -> None:
        self._embedder = embedder
        self._shares = shares
        self._visits: collections.deque[Visit] = collections.deque()
        self.call: list[tuple[Ticket, float]] = []  # of the last call: whose pieces, and how large they were
        self.divided: list[Ticket] = []  # whose common call ran out of memory; for the engine to count and clear

    def __len__(self) -> int:
        return len(self._visits)

    def enter(self, ticket: Ticket) -> None:
        self._visits.append(Visit(ticket, collections.deque(self._embedder.pieces(ticket.prepared))))

    def without_media(self, prepared: Prepared) -> tuple[Prompt, int]:
        """As of `Embedder.without_media`."""
        return self._embedder.without_media(prepared)

    def enter_when_idle(self, ticket: Ticket) -> None:
        """Next, from its first piece on, but not before the engine is idle: see `waits_for_idle`."""
        pieces = collections.deque(self._embedder.pieces(ticket.prepared))
        self._visits.appendleft(Visit(ticket, pieces, own_call=True, when_idle=True))

    @property
    def waits_for_idle(self) -> bool:
        return bool(self._visits) and self._visits[0].when_idle

    @property
    def lead(self) -> Share:
        """Whose media come next; there must be some."""
        return self._in_order()[0].ticket.share

    def tickets(self) -> list[Ticket]:
        return [visit.ticket for visit in self._visits]

    def remove_cancelled(self) -> list[Ticket]:
        """The tickets of requests that were cancelled here."""
        gone = [visit.ticket for visit in self._visits if visit.ticket.cancelled]
        if gone:
            self._visits = collections.deque(visit for visit in self._visits if not visit.ticket.cancelled)
        return gone

    def step(self, between: Callable[[], None]) -> list[Arrival]:
        """One call of a tower; the requests that are done with it. Others may enter, and any leave, meanwhile.

        A call with pieces of several requests that fails is repeated for each of them alone, by later steps.
        """
        call = next_call(self._in_order(), self._shares)
        self.call = [(visit.ticket, piece.share) for visit, piece in call]
        try:
            features = self._embedder.encode([piece for _, piece in call], between)
        except Exception as error:
            return self._divide(list(dict.fromkeys(visit for visit, _ in call)), error)
        for (visit, _), result in zip(call, features, strict=True):
            visit.pieces.popleft()
            visit.features.append(result)
        done = [visit for visit in self._visits if not visit.pieces]
        self._visits = collections.deque(visit for visit in self._visits if visit.pieces)
        return [self._merge(visit) for visit in done]

    def _in_order(self) -> list[Visit]:
        if self.waits_for_idle:
            return list(self._visits)
        return self._shares.in_order(list(self._visits), lambda visit: visit.ticket.share)

    def _divide(self, visits: Sequence[Visit], error: Exception) -> list[Arrival]:
        if len(visits) > 1:
            for visit in visits:
                visit.own_call = True
            if is_out_of_memory(error):
                self.divided += [visit.ticket for visit in visits]
            return []
        if visits[0] not in self._visits:
            return []  # it was cancelled meanwhile
        self._visits.remove(visits[0])
        return [Arrival(visits[0].ticket, error=error)]

    def _merge(self, visit: Visit) -> Arrival:
        try:
            return Arrival(visit.ticket, self._embedder.merge(visit.ticket.prepared, visit.features))
        except Exception as error:
            return Arrival(visit.ticket, error=error)


def next_call(visits: Sequence[Visit], shares: FairShares) -> list[tuple[Visit, Piece]]:
    """The pieces of the next call: the first request's, and others' of the same tower, in order, within the bound.

    Others don't lengthen the call of a key that is behind theirs.
    """
    first = visits[0]
    tower = first.pieces[0].tower
    call: list[tuple[Visit, Piece]] = []
    room = 1.0
    others = [
        visit for visit in visits if not (visit.own_call or shares.behind(first.ticket.share, visit.ticket.share))
    ]
    for visit in [first] if first.own_call else others:
        for piece in visit.pieces:
            if piece.tower != tower:
                break
            if call and piece.share > room:
                return call
            call.append((visit, piece))
            room -= piece.share
    return call
