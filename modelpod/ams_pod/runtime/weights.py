"""Weights from a folder into a module."""

import contextlib
import threading
from pathlib import Path
from typing import Any

import torch

from ams_pod.runtime.interface import LoadFailed

_READ_BLOCK = 8 << 20
_FAULTS = (OSError, ValueError, KeyError, ImportError, RuntimeError, AttributeError, TypeError)


def load_weights(model_class: Any, folder: Path, dtype: torch.dtype, device: str) -> Any:
    """The model of `folder` as `model_class` builds it, on `device`. LoadFailed if the files don't fit it."""
    try:
        model, found = model_class.from_pretrained(
            folder, dtype=dtype, local_files_only=True, attn_implementation="sdpa", output_loading_info=True
        )
    except _FAULTS as error:
        raise LoadFailed(f"{type(error).__name__}: {error}") from error
    if missing := sorted(found["missing_keys"]):
        raise LoadFailed(  # transformers would fill them at random
            f"the weights lack {len(missing)} tensors of {type(model).__name__}, {missing[0]} among them"
        )
    return model.to(device).eval()


def load_processor(processor_class: Any, folder: Path) -> Any:
    """The tokenizer or processor of `folder`. LoadFailed if its files are missing or damaged."""
    try:
        return processor_class.from_pretrained(folder, local_files_only=True)
    except _FAULTS as error:
        raise LoadFailed(f"{type(error).__name__}: {error}") from error


def read_ahead(folder: Path) -> None:
    """Bring the weights into the page cache while modules are built: a cold load waits for reading most."""

    def read() -> None:
        for path in sorted(folder.glob("*.safetensors")):
            with contextlib.suppress(OSError), path.open("rb", buffering=0) as file:
                while file.read(_READ_BLOCK):
                    pass

    threading.Thread(target=read, name="read-ahead", daemon=True).start()
