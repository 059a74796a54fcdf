"""What the next step computes: pure decisions about rows and prompts."""

from collections.abc import Sequence

ALONE_TOKENS = 512  # prompt tokens of a step when nobody waits for a next token
_SMALLEST_CHUNK, _LARGEST_CHUNK = 16, 128


class Pace:
    """How fast prompts are read, from the steps so far."""

    def __init__(self) -> None:
        self.seconds_per_token: float | None = None  # moving average; None until it is known
        self._step_seconds = 0.0  # of the last step without a prompt

    def note(self, read: int, rows: bool, seconds: float) -> None:
        """A step read `read` tokens of prompts, beside running rows or not."""
        if not read:
            self._step_seconds = seconds
        elif read >= 16:  # fewer tell nothing
            cost = max(0.0, seconds - (self._step_seconds if rows else 0.0)) / read
            known = self.seconds_per_token
            self.seconds_per_token = cost if known is None else 0.7 * known + 0.3 * cost


def chunk_budget(running: int, seconds_per_token: float | None, gap_seconds: float) -> int:
    """Prompt tokens that one step may take on.

    While requests are running, each step is a gap in their streams: as many tokens as fit `gap_seconds` at the
    measured prefill speed, within bounds that keep both matmuls and streams efficient.
    """
    if not running:
        return ALONE_TOKENS
    if not seconds_per_token:  # not measured yet, or too short to be
        return _LARGEST_CHUNK
    return int(max(_SMALLEST_CHUNK, min(_LARGEST_CHUNK, gap_seconds / seconds_per_token)))


def share_budget(remaining: Sequence[int], free_rows: int, budget: int) -> list[int]:
    """Tokens taken of each waiting prompt, in order; only the last of them may stay unfinished.

    `remaining` are the tokens each prompt still has to read (the first may be half read already).
    """
    taken: list[int] = []
    for tokens in remaining[:free_rows]:
        if budget <= 0:
            break
        taken.append(min(tokens, budget))
        budget -= tokens
    return taken


def close_ranks(leaving: Sequence[bool]) -> list[int]:
    """Order of the rows that stay, with as few moves as possible: the last row goes into each hole.

    new row i was row result[i]; no row moves to a higher place.
    """
    order = list(range(len(leaving)))
    at = 0
    while at < len(order):
        if not leaving[order[at]]:
            at += 1
            continue
        last = order.pop()
        if at < len(order):
            order[at] = last
    return order
