"""torchvision beside a torch that its native operators weren't built for.

PyPI's torchvision is built for CUDA. Beside a CPU build of torch its library can't be loaded, and `import torchvision`
then ends with "operator torchvision::nms does not exist", which takes many models of transformers with it. All that
transformers uses of torchvision is its transforms, which are plain torch: it is enough that the operators are declared.
Where the library loads, nothing is changed.
"""

import glob
import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

_OPERATORS = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_kept: list[Any] = []  # an operator lives as long as its library object


class _Finder(importlib.abc.MetaPathFinder):
    """Steps in once, when torchvision is about to be imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            spec = importlib.machinery.PathFinder.find_spec(fullname)
            if spec is not None and spec.submodule_search_locations:
                _declare_operators(spec.submodule_search_locations[0])
        return None


def _declare_operators(folder: str) -> None:
    import torch

    if _kept:  # somebody only asked whether there is a torchvision before
        return
    for library in glob.glob(os.path.join(folder, "_C*.so")):
        try:
            torch.ops.load_library(library)
            return
        except OSError:
            continue
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(name + _OPERATORS)
    _kept.append(library)


def install() -> None:
    """Be ready for `import torchvision`; costs nothing until then."""
    if "torchvision" not in sys.modules and not any(isinstance(each, _Finder) for each in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
