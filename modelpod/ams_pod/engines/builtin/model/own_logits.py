"""What a model's own forward pass said of a short prompt, kept so that later loads compare with it.

It belongs to the files of the model, the number format, and the versions and instructions of what computes here. What
is found is data: a decoder that is as it should be is close to it, and where one isn't, all is computed and compared
anew.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ams_pod.derived import derived_folder, forget_derived, identity_of, read_derived, write_derived
from ams_pod.engines.builtin import compiled
from ams_pod.engines.builtin.load_request import LoadRequest
from ams_pod.engines.builtin.memory.placing import Placement
from ams_pod.versions import PRODUCT, installed_version

_VERSION = 1  # of the prompt and of the file
_CODE = (PRODUCT, "ams-kernels", "torch", "transformers")
_MOST_BYTES = 64 << 20
_TENSOR = "logits"


@dataclass(frozen=True, slots=True)
class OwnLogits:
    """Of one model in one number format."""

    path: Path

    @classmethod
    def of(cls, request: LoadRequest, placement: Placement) -> "OwnLogits | None":
        """None where there is no place for them, or the weights can't be told apart from others."""
        folder = derived_folder(Path(request.settings.models_dir), request.folder)
        if folder is None:
            return None
        kernels = compiled.variant() or compiled.unavailable()
        ours = [
            _VERSION,
            *(installed_version(name) or "none" for name in _CODE),
            kernels,
            torch.backends.cpu.get_cpu_capability(),
        ]
        parts = [*ours, str(placement.dtype), placement.quantization, placement.device]
        try:
            key = identity_of(request.folder, [*parts, int(placement.keeps_groups)])
        except OSError:
            return None
        return cls(folder / f"logits-{key}.safetensors")

    def is_there(self) -> bool:
        return self.path.is_file()

    def read(self, shape: tuple[int, ...]) -> Tensor | None:
        """float32 of this shape; None if there are none, or anything else than numbers of this shape."""
        data = read_derived(self.path, _MOST_BYTES)
        if data is None:
            return None
        try:
            logits = load(data)[_TENSOR]
        except (SafetensorError, KeyError, ValueError, RuntimeError, TypeError):
            return None
        if logits.shape != shape or not logits.is_floating_point():
            return None
        logits = logits.float()
        return logits if bool(logits.isfinite().all()) else None

    def keep(self, logits: Tensor) -> None:
        """For the next load, where there is room for it; float32."""
        logits = logits.cpu().contiguous()
        short = logits.bfloat16()
        data = save({_TENSOR: short if bool((short.float() == logits).all()) else logits})
        write_derived(self.path, lambda file: file.write(data))

    def forget(self) -> None:
        forget_derived(self.path)
