"""Steps of rows alone as CUDA graphs: hundreds of kernels are launched as one, so that nothing waits for the host.

A graph is for so many rows, and those of a step are filled up to the next size; rows that nobody has read no keys and
write none.
"""

import bisect
import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ams_pod.engines.builtin.memory.out_of_memory import is_out_of_memory
from ams_pod.engines.builtin.model.cuda.kernels import RowPlaces, TokenPlaces
from ams_pod.engines.builtin.model.cuda.layers import row_table
from ams_pod.engines.builtin.model.extents import Extent
from ams_pod.engines.builtin.model.transfer import on_device

log = logging.getLogger(__name__)

_MOST_ROWS = 256
_NOWHERE = -1

Decode = Callable[[Tensor, Tensor, TokenPlaces, RowPlaces], Tensor]
"""Token ids [rows], positions [rows] and places to logits [rows, vocabulary]."""


def sizes_for(most: int) -> list[int]:
    """Rows that graphs are made for: close together where filling up costs, up to `most` as far as any can."""
    sizes = [1, 2, 4, *range(8, 64, 8), *range(64, _MOST_ROWS + 1, 32)]
    most = min(most, _MOST_ROWS)
    return [size for size in sizes if size < most] + [most]


def step_table(
    size: int, ids: Sequence[int], positions: Sequence[int], places: Sequence[tuple[Extent, int, int]], heads: int
) -> Tensor:
    """All that a graph of `size` rows reads, int64 [7, size].

    Ids, positions, where and how far apart a token's heads are stored, and `row_table`'s three.
    """
    table = torch.zeros(7, size, dtype=torch.int64)
    rows = len(ids)
    table[0, :rows] = torch.tensor(ids)
    table[1, :rows] = torch.tensor(positions)
    table[2] = _NOWHERE
    table[2, :rows] = torch.tensor([place.offset * heads + start for place, start, _ in places])
    table[4:, :rows] = row_table(places, heads)
    table[3] = table[5]
    return table


class DecodeGraphs:
    """Graphs of one decoder. Replays, and the reading of what they gave, come one after the other."""

    def __init__(self, decode: Decode, most_rows: int, device: torch.device) -> None:
        self._decode, self._device = decode, device
        self._sizes = sizes_for(most_rows)
        self._made: dict[int, tuple[Callable[[], None], Tensor, Tensor]] = {}
        self._pool: object | None = None

    def make(self) -> bool:
        """All graphs, the largest first, as they share memory; False if they can't be made, and then none is."""
        try:
            for size in reversed(self._sizes):
                self._made[size] = self._make(size)
        except RuntimeError as error:
            self._made.clear()
            if is_out_of_memory(error):
                raise
            log.warning("steps are launched kernel by kernel: %s", str(error).partition("\n")[0])
            return False
        log.info("steps of up to %d rows are CUDA graphs", self._sizes[-1])
        return True

    def run(
        self,
        ids: Sequence[int],
        positions: Sequence[int],
        places: Sequence[tuple[Extent, int, int]],
        heads: int,
    ) -> Tensor | None:
        """Logits [rows, vocabulary], which the next call overwrites; None where there is no graph for so many rows."""
        at = bisect.bisect_left(self._sizes, len(ids))
        if not ids or at == len(self._sizes) or self._sizes[at] not in self._made:
            return None
        size = self._sizes[at]
        replay, table, logits = self._made[size]
        table.copy_(on_device(step_table(size, ids, positions, places, heads), self._device), non_blocking=True)
        replay()
        return logits[: len(ids)]

    def _make(self, size: int) -> tuple[Callable[[], None], Tensor, Tensor]:
        table = on_device(step_table(size, [], [], [], 1), self._device)

        def compute() -> Tensor:
            return self._decode(table[0], table[1], TokenPlaces(table[2], table[3]), RowPlaces(*table[4:]))

        replay, logits, self._pool = record(compute, self._pool)
        return replay, table, logits


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
