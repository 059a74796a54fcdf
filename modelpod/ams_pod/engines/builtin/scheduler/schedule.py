"""What the next step computes: pure decisions about rows and prompts."""

from collections.abc import Sequence

GAP_SECONDS = 0.2
"""What a prompt, or a tower, may add to the time between two tokens of a running request."""

ALONE_SECONDS = 0.25
"""What a step takes on when nobody waits for a next token: a request that comes meanwhile waits for its end."""

ALONE_TOKENS = 512
_ALONE_LEAST = 64  # fewer make the matmuls slower: on 2 cores by 7 % at 64, by 16 % at 32
_SMALLEST_CHUNK, _LARGEST_CHUNK = 16, 128
_WIDE_CHUNK = 2048  # a GPU is not filled by fewer


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


def chunk_budget(running: bool, seconds_per_token: float | None, *, wide: bool = False) -> int:
    """Prompt tokens that one step may take on; more of them where `wide` steps take little longer.

    While requests are running, each step is a gap in their streams: as many tokens as fit GAP_SECONDS at the measured
    prefill speed, within bounds that keep both matmuls and streams efficient. Otherwise as many as fit ALONE_SECONDS.
    """
    if not seconds_per_token:  # not measured yet, or too short to be
        return _LARGEST_CHUNK if running else ALONE_TOKENS
    beside, alone = (_WIDE_CHUNK, _WIDE_CHUNK) if wide else (_LARGEST_CHUNK, ALONE_TOKENS)
    if running:
        return int(max(_SMALLEST_CHUNK, min(beside, GAP_SECONDS / seconds_per_token)))
    return int(min(alone, max(_ALONE_LEAST, ALONE_SECONDS / seconds_per_token)))


def share_budget(remaining: Sequence[int], budget: int) -> list[int]:
    """Tokens taken of each prompt, of which so many remain to be read, the oldest first; a prompt may get none.

    First come, first served, but for one thing: a prompt that doesn't end in this step leaves half of it to later ones
    that are far shorter, the shortest first. So a question doesn't wait for a book, and the book always goes on.
    """
    taken = [0] * len(remaining)
    for index, tokens in enumerate(remaining):
        if tokens <= budget:
            taken[index] = tokens
            budget -= tokens
            continue
        left = budget // 2
        shorter = [later for later in range(index + 1, len(remaining)) if 2 * remaining[later] <= tokens]
        for later in sorted(shorter, key=remaining.__getitem__):
            if remaining[later] > left and left < _SMALLEST_CHUNK // 2:
                break  # a morsel is not worth its call
            taken[later] = min(left, remaining[later])
            left -= taken[later]
        taken[index] = budget - sum(taken[index + 1 :])
        break
    return taken


def share_among(groups: Sequence[Sequence[int]], budget: int) -> list[list[int]]:
    """The same for prompts of several keys, whose turn it is first: what one key's prompts leave is the next one's."""
    taken = []
    for remaining in groups:
        taken.append(share_budget(remaining, budget) if budget > 0 else [0] * len(remaining))
        budget -= sum(taken[-1])
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
