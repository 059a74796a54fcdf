"""How many threads the compute thread's operations use."""

import math
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_limited = threading.local()


def default_threads() -> int:
    """Physical cores that this process may use, within the container's CPU limit; at least one.

    A second thread of one core only gets in the way of matmuls, and threads beyond a limit make all wait for those
    that the kernel throttles.
    """
    try:
        quota = _QUOTA.read_text(encoding="ascii")
    except OSError:
        quota = "max"
    return choose_threads(torch.get_num_threads(), len(os.sched_getaffinity(0)), quota)


def use_one_thread() -> None:
    """Let this thread's torch operations use one thread: only the compute thread's may use more."""
    if not getattr(_limited, "once", False):
        torch.set_num_threads(1)
        _limited.once = True


_one_between = threading.Event()


def keep_one_between_steps() -> None:
    """`between_steps` uses one thread from now on: OpenMP's would spin where the kernels' own compute next."""
    _one_between.set()


@contextmanager
def between_steps() -> Iterator[None]:
    """For small operators on a step's results."""
    if not _one_between.is_set():
        yield
        return
    with one_thread():
        yield


@contextmanager
def one_thread() -> Iterator[None]:
    """For small operators between calls of the kernels, as a thread of OpenMP's that waits for its part spins."""
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(count)


def choose_threads(physical: int, allowed: int, quota: str) -> int:
    """From the machine's physical cores, the CPUs that the process may run on, and cgroup's `cpu.max`."""
    limit, _, period = quota.strip().partition(" ")
    granted = math.ceil(int(limit) / int(period)) if limit.isdigit() and period.isdigit() else allowed
    return max(1, min(physical, allowed, granted))
