"""Which errors mean that memory ran out, and how to get back what a failed computation held."""

import gc

import torch

from ams_pod.heap import trim_heap

# What torch and the libraries below it say where they have no exception of their own for it.
_OUT_OF_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
_DEVICE_LOST = ("illegal memory access", "device-side assert", "unspecified launch failure", "uncorrectable ECC error")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether more memory, or less work at once, would have helped."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _OUT_OF_MEMORY)


def is_device_lost(error: BaseException) -> bool:
    """Whether the GPU's state is lost, so that nothing that this process computes from now on can succeed."""
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _DEVICE_LOST)


def drop_frames(error: BaseException) -> None:
    """Drop the frames that an error holds, and with them the tensors of what failed."""
    seen: BaseException | None = error
    while seen is not None:
        seen.__traceback__ = None
        seen = seen.__context__ or seen.__cause__


def release(device: str) -> None:
    """Give back what no object needs: garbage, the allocators' spare blocks. For the compute thread, between steps."""
    gc.collect()
    if device != "cpu":
        torch.cuda.empty_cache()
    trim_heap()
