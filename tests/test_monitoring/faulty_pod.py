"""`ams-pod serve` with faults put in on purpose: `faulty_pod.py FOLDER serve ...`.

While FOLDER has a file of that name: `oom`: memory runs out in each step. `hang`: no step ends. `slow`: each takes
50 ms. `full`: the volume has a hundredth left.
"""

import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ams_pod.engines.builtin  # noqa: F401  # torchvision beside this torch
import torch
from ams_pod import volume
from ams_pod.engines.builtin.scheduler import computing
from ams_pod.main import main


class FaultyForward:
    """A model's forward pass, with what the folder asks for."""

    def __init__(self, inner: Any, folder: Path) -> None:
        self._inner, self._folder = inner, folder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def step(self, batch: Any) -> torch.Tensor:
        while (self._folder / "hang").exists():
            time.sleep(0.05)
        if (self._folder / "slow").exists():
            time.sleep(0.05)
        if (self._folder / "oom").exists():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        logits: torch.Tensor = self._inner.step(batch)
        return logits


def put_in(folder: Path) -> None:
    begin, statvfs = computing.Computation.__init__, os.statvfs

    def with_faults(self: Any, forward: Any, *others: Any) -> None:
        begin(self, FaultyForward(forward, folder), *others)

    def full_statvfs(path: str) -> Any:
        found = statvfs(path)
        free = found.f_blocks // 100 if (folder / "full").exists() else found.f_blocks // 2
        return SimpleNamespace(f_blocks=found.f_blocks, f_frsize=found.f_frsize, f_bavail=free)

    computing.Computation.__init__ = with_faults  # type: ignore[assignment]
    volume.os = SimpleNamespace(statvfs=full_statvfs)  # type: ignore[assignment]


if __name__ == "__main__":
    put_in(Path(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
