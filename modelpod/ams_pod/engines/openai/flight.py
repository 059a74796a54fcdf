"""One request on its way through another engine: from its events to tokens. No clock and no loop in here."""

from asyncio import Handle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ams_pod.engines.openai.pieces import LoadedAdapter, MediaChat, Piece
from ams_pod.engines.port import EngineError, EngineRefusal, Finish, Ticket, TokenEvent, TokenLogprobs

_HIGHEST_ID = (1 << 31) - 1
_MOST_TOLD = 16  # times what was asked for, of engines that may send a token in pieces
_MOST_TEXT = 1024  # characters a token
_LEAST_TEXT = 64 << 10


@dataclass(slots=True)
class Attempts:
    """How often a request was sent, and the adapter that it is computed with.

    `put_off_at` is when the engine first had no room for it, in monotonic seconds.
    """

    sent: int = 0
    put_off_at: float | None = None
    adapter: LoadedAdapter | None = None


class Flight:
    """`emit` takes its events; `ended` becomes true with the last one. `ends` are tokens that end its answer."""

    __slots__ = (
        "_emit", "_ends", "_finish", "_held", "_held_logprobs", "_limit", "_media", "_most_text", "_own_ends",
        "_text_length", "attempts", "cached", "count", "embedding", "ended", "mark", "prompt_tokens", "slot", "tail",
        "ticket",
    )  # fmt: skip

    def __init__(
        self, ticket: Ticket, emit: Callable[[TokenEvent], None], ends: frozenset[int], attempts: Attempts
    ) -> None:
        self.ticket = ticket
        self.attempts = attempts
        self.count = 0  # tokens that were given out, or are held
        self.cached = 0
        self.prompt_tokens = len(ticket.prepared.ids)
        self.ended = False
        self.mark = 0.0
        self.slot: int | None = None
        self.tail: Handle | None = None  # which ends the wait for what an engine says behind the end
        self._limit = ticket.sampling.max_new_tokens
        self._most_text = _LEAST_TEXT + _MOST_TEXT * self._limit
        self._text_length = 0
        self._emit = emit
        self._own_ends = frozenset(ticket.sampling.stop_tokens)
        self._ends = self._own_ends if ticket.sampling.ignore_eos else ends | self._own_ends
        self._media = isinstance(ticket.prepared.media, MediaChat)
        self.embedding: Sequence[float] | None = None
        self._held: int | None = None  # a token that ends the answer: given out with the end
        self._held_logprobs: TokenLogprobs | None = None
        self._finish: Finish | None = None

    def take(self, piece: Piece) -> None:
        """What one event told."""
        if self.ended:
            return
        if piece.error is not None:
            self.fail(piece.error)
            return
        if piece.prompt_tokens is not None:
            self._note_prompt(piece.prompt_tokens, made_there=self._media or piece.embedding is not None)
        if piece.cached_tokens is not None:
            self.cached = self.ticket.cached_tokens = min(piece.cached_tokens, self.prompt_tokens)
        if piece.prompt_logprobs is not None:
            self.ticket.prompt_logprobs = piece.prompt_logprobs
        if piece.finish is not None:
            self._finish = piece.finish
        if piece.embedding is not None:
            self.embedding = piece.embedding
        if piece.tokens:
            self._take_tokens(piece)
        elif piece.text or (piece.count is not None and piece.count > self.count):
            self._take_text(piece)

    def say_done(self) -> None:
        """The engine says that it has told all, whether it said how the answer ends or not."""
        if self._finish is None and self.count:
            self._finish = "length" if self.count >= self._limit else "stop"
        self.complete()

    def complete(self) -> None:
        """The engine has told all."""
        if self.ended:
            return
        finish = self._finish
        if finish is None:
            self.fail(EngineRefusal("engine-failed", "The engine ended its answer without saying why."))
            return
        self.ended = True
        if self._held is not None:
            self._emit(TokenEvent(self.ticket, self._held, finish, logprobs=self._held_logprobs))
        else:
            self._emit(TokenEvent(self.ticket, None, finish, embedding=self.embedding))

    @property
    def finished(self) -> bool:
        """Whether the engine said how the answer ends; numbers may still come."""
        return self._finish is not None

    def fail(self, error: EngineError) -> None:
        if not self.ended:
            self.ended = True
            self._emit(TokenEvent(self.ticket, None, "failed", error))

    def cancel(self) -> None:
        if not self.ended:
            self.ended = True
            self._emit(TokenEvent(self.ticket, None, "cancelled"))

    def _note_prompt(self, tokens: int, *, made_there: bool) -> None:
        """How long the prompt is, also of one that the engine made."""
        if made_there and tokens != self.prompt_tokens:
            self.ticket.prepared = replace(self.ticket.prepared, ids=range(tokens))
        self.prompt_tokens = tokens

    def _take_tokens(self, piece: Piece) -> None:
        tokens, logprobs = piece.tokens, piece.logprobs
        last = len(tokens) - 1
        if not all(0 <= token <= _HIGHEST_ID for token in tokens):
            raise EngineRefusal("engine-failed", "The engine sent ids that are no tokens.")
        self._bound(len(tokens), piece.text)
        missing = min(piece.count, self._limit) - self.count - len(tokens) if piece.count is not None else 0
        if missing > 0:  # a character of several tokens, of which the engine told the last one alone
            for _ in range(missing):
                self._give(0, None, "")
        for at, token in enumerate(tokens):
            told = logprobs[at] if at < len(logprobs) else None
            if token in self._ends or (at == last and self._finish == "length"):
                self._flush_held()
                self.count += 1
                self._held, self._held_logprobs = token, told
                if token in self._own_ends:
                    self._finish = "stop"
                    self.complete()
                    return
            else:
                self._give(token, told, piece.text if missing > 0 and at == last else None)

    def _take_text(self, piece: Piece) -> None:
        """Of an engine that tells no ids: as many tokens as it counts, with all of the text in the last."""
        new = max(1, min(piece.count, self._limit) - self.count) if piece.count is not None else 1
        if not piece.text and self.count + new > self._limit:
            return  # a count beyond what was asked for
        self._bound(new, piece.text)
        for _ in range(new - 1):
            self._give(0, None, "")
        self._give(0, piece.logprobs[0] if piece.logprobs else None, piece.text or "")

    def _bound(self, tokens: int, text: str | None) -> None:
        """EngineRefusal for an engine that goes on and on."""
        self._text_length += len(text) if text else 0
        if self.count + tokens > _MOST_TOLD * self._limit or self._text_length > self._most_text:
            raise EngineRefusal("engine-failed", "The engine sent far more than it was asked for, and was left.")

    def _give(self, token: int, logprobs: TokenLogprobs | None, text: str | None) -> None:
        self._flush_held()
        self.count += 1
        self._emit(TokenEvent(self.ticket, token, text=text, logprobs=logprobs))

    def _flush_held(self) -> None:
        """It didn't end the answer after all."""
        if self._held is not None:
            self._emit(TokenEvent(self.ticket, self._held, logprobs=self._held_logprobs))
            self._held = self._held_logprobs = None
