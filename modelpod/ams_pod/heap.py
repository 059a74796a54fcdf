"""The C library's heap, which tensors, arrays and decoders take their memory from. glibc's; elsewhere nothing is done.

glibc gives each thread a heap of its own. What is free at the end of one goes back only beyond that heap's threshold,
which one large array raises to tens of megabytes; `malloc_trim` doesn't look there, and other threads can't use it. So
a pod grew for as long as new threads happened to work on something large at the same time. All threads share one heap
instead: what any of them freed is there for all, and can be given back.
"""

import contextlib
import ctypes

_M_ARENA_MAX = -8


def share_one_heap() -> None:
    """For all threads that take memory for the first time from here on."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def trim_heap() -> None:
    """Give the heap's free pages back to the system."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
