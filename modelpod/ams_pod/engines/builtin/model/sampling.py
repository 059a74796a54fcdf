"""The next token of each row: the likeliest one, or one that is drawn with randomness of the row's own.

All rows go through the same few passes over [rows, vocabulary], and the host waits for the result once. The rules are
those of transformers' processors, in its order: penalties and bans, temperature, top_k, top_p, min_p. A row's draws
don't depend on the batch that it happens to run in.
"""

import random
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from ams_pod.engines.builtin import compiled
from ams_pod.engines.builtin.model.adjusting import Adjustments, adjust
from ams_pod.engines.builtin.model.drawing import AGAIN, BLOCK, Drawing
from ams_pod.engines.builtin.model.masking import Masks
from ams_pod.engines.builtin.model.transfer import on_device
from ams_pod.engines.builtin.threads import between_steps
from ams_pod.engines.port import EngineError, Sampling

NOTHING = -1
"""In place of a token, where bans and masks leave none to choose from."""

_NOT_NUMBERS = -3


class RowSampler:
    """Sampling of one request and the state it needs between steps."""

    __slots__ = ("adjustments", "random", "sampling")

    def __init__(self, sampling: Sampling, prompt: Sequence[int]) -> None:
        self.sampling = sampling
        self.random = random.Random(sampling.seed)
        self.adjustments = Adjustments.of(sampling, prompt)

    def accept(self, token: int) -> None:
        if self.adjustments is not None:
            self.adjustments.accept(token)


class NotNumbers(EngineError):
    """The logits of a row hold NaN: no token of it would mean anything."""

    def __init__(self) -> None:
        super().__init__(
            "The model computed something that is no number (NaN) for this request: its weights are damaged, or their"
            " number format is too narrow for it (spec.precision)."
        )


def sample(
    logits: Tensor, rows: Sequence[RowSampler], ends: Collection[int] = (), masks: Masks | None = None
) -> list[int | None]:
    """One token for each row of logits [rows, vocabulary]; None where they hold NaN, NOTHING where none is allowed.

    `ends` are the tokens that end an answer, for rows that mustn't end yet.
    """
    if not rows:
        return []
    vocabulary = logits.shape[1]
    plain = masks is None and all(row.adjustments is None for row in rows)
    library = compiled.load() if logits.device.type == "cpu" else None
    if plain and library is not None and logits.dtype in (torch.bfloat16, torch.float32):
        return _compiled(library, logits, vocabulary, rows)
    with between_steps():
        return _adjusted(logits, rows, ends, masks, library)


def _adjusted(
    logits: Tensor, rows: Sequence[RowSampler], ends: Collection[int], masks: Masks | None, library: Any | None
) -> list[int | None]:
    vocabulary = logits.shape[1]
    values = _copied(logits)
    adjust(values, vocabulary, [row.adjustments for row in rows], ends)
    if masks is not None:
        masks.apply(values)
    if library is not None:
        return _compiled(library, values, vocabulary, rows)
    highest, likeliest = _likeliest(values)
    drawn = [index for index, row in enumerate(rows) if row.sampling.temperature > 0]
    if not drawn:
        return _told(highest, likeliest)
    if len(drawn) == len(rows):
        drawing = Drawing(values, vocabulary, highest, likeliest, rows)
        tokens = _told(highest, drawing.tokens)
        while again := [index for index, token in enumerate(tokens) if token == AGAIN]:
            tokens = _told(highest, drawing.draw_again(again))
        return tokens
    where = on_device(torch.tensor(drawn), values.device)
    drawing = Drawing(values[where], vocabulary, highest[where], likeliest[where], [rows[index] for index in drawn])
    tokens = _told(highest, likeliest.index_copy(0, where, drawing.tokens))
    while again := [at for at, index in enumerate(drawn) if tokens[index] == AGAIN]:
        tokens = _told(highest, likeliest.index_copy(0, where, drawing.draw_again(again)))
    return tokens


def _compiled(library: Any, logits: Tensor, vocabulary: int, rows: Sequence[RowSampler]) -> list[int | None]:
    """By one call of the kernels, which draw without torch's operators and with numbers of their own.

    Whether a row is drawn so depends on the machine alone, never on its neighbours: its seed gives the same answer.
    """
    draws = None
    if any(row.sampling.temperature > 0 for row in rows):
        draws = (compiled.DrawC * len(rows))()
        for draw, row in zip(draws, rows, strict=True):
            sampling = row.sampling
            if sampling.temperature > 0:
                draw.seed, draw.top_k = row.random.getrandbits(64), min(sampling.top_k, vocabulary)
                draw.temperature, draw.top_p, draw.min_p = sampling.temperature, sampling.top_p, sampling.min_p
    if logits.stride(1) != 1:
        logits = logits.contiguous()
    tokens = torch.empty(len(rows), dtype=torch.long)
    wide = logits.dtype == torch.float32
    failed = library.ams_draw(
        logits.data_ptr(), wide, len(rows), vocabulary, logits.stride(0), draws, tokens.data_ptr()
    )
    if failed:
        raise MemoryError("there is no memory to draw tokens in")
    return [None if token == -1 else NOTHING if token == -2 else token for token in tokens.tolist()]


def _copied(logits: Tensor) -> Tensor:
    """The logits as float32, as bfloat16 is five times slower, in whole blocks; beyond the vocabulary they are -inf."""
    rows, vocabulary = logits.shape
    values = logits.new_empty(rows, -(-vocabulary // BLOCK) * BLOCK, dtype=torch.float32)
    values[:, :vocabulary].copy_(logits)
    values[:, vocabulary:] = float("-inf")
    return values


def _likeliest(values: Tensor) -> tuple[Tensor, Tensor]:
    """The highest value of each row, and where it is; NaN counts as the highest.

    A maximum of a block is found without its place an order of magnitude faster than with it.
    """
    blocks = values.view(len(values), -1, BLOCK)
    highest, block = blocks.amax(-1).max(-1)
    inside = blocks.gather(1, block[:, None, None].expand(-1, -1, BLOCK))[:, 0].argmax(-1)
    return highest, block * BLOCK + inside


def _told(highest: Tensor, tokens: Tensor) -> list[int | None]:
    """The tokens on the host; the one place where it waits for the device."""
    tokens = tokens.masked_fill(highest == float("-inf"), NOTHING).masked_fill(highest.isnan(), _NOT_NUMBERS)
    return [None if token == _NOT_NUMBERS else token for token in tokens.tolist()]
