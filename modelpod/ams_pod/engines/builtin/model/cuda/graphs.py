"""Steps as CUDA graphs: hundreds of kernels are launched as one, so that nothing waits for the host.

A graph is for so many tokens, and those of a step are filled up to the next size; tokens that nobody has read no keys
and write none.
"""

import bisect
import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ams_pod.engines.builtin.model.cuda.kernels import RowPlaces, TokenPlaces
from ams_pod.engines.builtin.model.cuda.tables import Place, as_rows, graph_table, token_table
from ams_pod.engines.builtin.model.transfer import on_device

log = logging.getLogger(__name__)

SIZES = (1, 2, 4, *range(8, 64, 8), *range(64, 257, 32))
"""Tokens that graphs are made for: close together where filling up costs."""

Compute = Callable[[Tensor, Tensor, TokenPlaces, RowPlaces], Tensor]
"""Token ids [tokens], positions [tokens] and places to hidden states [tokens, hidden]."""


class StepGraphs:
    """Graphs of one decoder. Replays, and the reading of what they gave, come one after the other."""

    def __init__(self, compute: Compute, heads: int, device: torch.device) -> None:
        """`heads` are those of keys."""
        self._compute, self._heads, self._device = compute, heads, device
        self._made: dict[int, tuple[Callable[[], None], Tensor, Tensor]] = {}
        self._pool: object | None = None

    def make(self) -> bool:
        """All graphs, the largest first, as they share memory; False if they can't be made, and then none is."""
        try:
            for size in reversed(SIZES):
                self._made[size] = self._make(size)
        except RuntimeError as error:
            self._made.clear()  # what they took is free again, where memory ran out
            log.warning("steps are launched kernel by kernel: %s", str(error).partition("\n")[0])
            return False
        log.info("steps of up to %d tokens are CUDA graphs", SIZES[-1])
        return True

    def run(self, ids: Sequence[int], positions: Sequence[int], places: Sequence[Place], rows: int) -> Tensor | None:
        """Hidden states [tokens, hidden], which the next call overwrites.

        `places` are of `rows` with a token each, and of chunks of prompts behind them. None where no graph is for such
        a step: it has too many tokens, or chunks for which keys would be read too often.
        """
        if not ids or len(ids) > SIZES[-1] or not all(as_rows(places[rows:])):
            return None
        size = SIZES[bisect.bisect_left(SIZES, len(ids))]
        replay, table, hidden = self._made[size]
        given = graph_table(size, ids, positions, token_table(places, self._heads))
        table.copy_(on_device(given, self._device), non_blocking=True)
        replay()
        return hidden[: len(ids)]

    def _make(self, size: int) -> tuple[Callable[[], None], Tensor, Tensor]:
        table = on_device(graph_table(size, [], [], token_table([], self._heads)), self._device)

        def compute() -> Tensor:
            return self._compute(table[0], table[1], TokenPlaces(table[2], table[3]), RowPlaces(*table[4:]))

        replay, hidden, self._pool = record(compute, self._pool)
        return replay, table, hidden


def record(compute: Callable[[], Tensor], pool: object | None) -> tuple[Callable[[], None], Tensor, object]:
    """What computes it again, in the same memory; the result, which that writes; and the memory, for the next one."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # what is made at a first call must not be made while a graph is recorded
        compute()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    # Other threads may ask the GPU for its memory meanwhile.
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        result = compute()
    return graph.replay, result, graph.pool()
