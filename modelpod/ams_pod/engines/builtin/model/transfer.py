"""What depends on where tensors are: how they get there without the host waiting, and how rows are gone through."""

import torch
from torch import Tensor


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on the device; from pinned memory, as the host would wait otherwise."""
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def row_by_row(device: torch.device) -> bool:
    """Whether rows are gone through one by one: on a CPU, where one fits a core's cache and looking at it is free."""
    return device.type == "cpu"
