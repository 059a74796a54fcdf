"""Masks of a batch, computed in a thread beside the step that needs them."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from ams_pod.engines.builtin.constraints.guide import Guide
from ams_pod.engines.builtin.model.masking import Masks


class MaskThread:
    """One thread, for the rows of one step after the other; it is started with the first."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None

    def begin(self, guides: Sequence[Guide | None]) -> "ComingMasks | None":
        """Those of a batch's rows; None where no row is held to anything."""
        rows = [(index, guide) for index, guide in enumerate(guides) if guide is not None]
        if not rows:
            return None
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, "masks")
        return ComingMasks([index for index, _ in rows], self._pool.submit(_fill, [guide for _, guide in rows]))


class ComingMasks:
    """What a step waits for once its logits are there."""

    def __init__(self, rows: Sequence[int], filled: "Future[np.ndarray[tuple[int, int], np.dtype[np.uint8]]]") -> None:
        self._rows, self._filled = rows, filled

    def masks(self) -> Masks:
        return Masks(self._rows, torch.from_numpy(self._filled.result()))

    def wait(self) -> None:
        """Until nothing uses the guides; what was computed is of no more use."""
        self._filled.exception()


def _fill(guides: Sequence[Guide]) -> "np.ndarray[tuple[int, int], np.dtype[np.uint8]]":
    allowed = np.zeros((len(guides), guides[0].bytes), np.uint8)
    for guide, bits in zip(guides, allowed, strict=True):
        guide.fill(bits)
    return allowed
