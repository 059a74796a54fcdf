"""Memory that many threads used at once can be given back."""

import platform
import subprocess
import sys

import pytest

# Each of several threads takes 48 MB in blocks that are too small for pages of their own, frees them, and keeps living.
# A large array is freed first: it raises the size from which glibc gives free memory back by itself.
_PROGRAM = """
import ctypes, threading
from ams_pod.heap import share_one_heap, trim_heap
from ams_pod.resident import resident_bytes

share_one_heap()
bytes(30 << 20)
before, threads = resident_bytes(), 6
taken, measured, freed, done = (threading.Barrier(threads + 1) for _ in range(4))

def work():
    blocks = [ctypes.create_string_buffer(96 << 10) for _ in range(500)]
    for block in blocks:
        ctypes.memset(block, 1, len(block))
    taken.wait()
    measured.wait()
    del blocks, block
    freed.wait()
    done.wait()

for _ in range(threads):
    threading.Thread(target=work).start()
taken.wait()
most = resident_bytes()
measured.wait()
freed.wait()
trim_heap()
print(most - before, resident_bytes() - before)
done.wait()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has heaps of threads")
def test_what_threads_freed_can_be_given_back() -> None:
    run = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, timeout=60, check=True)
    taken, left = map(int, run.stdout.split())
    assert taken > 250 << 20
    assert left < 20 << 20
