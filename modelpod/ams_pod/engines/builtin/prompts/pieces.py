"""Parts of a request's media, as towers take them."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """A part of one request's media that a tower takes as a whole.

    `share` is what it takes of the bound of a call: pieces of one `tower` whose shares add up to 1 go together; a piece
    that can't be divided further may have more, and goes alone. Its features replace the next placeholders `token`.
    """

    tower: str
    token: int
    share: float
    inputs: Any
