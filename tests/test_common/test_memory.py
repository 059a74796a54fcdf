"""Memory that may be used: the machine's and a container's limit, from the kernel's files."""

import pytest
from ams_common.memory import available_bytes, total_bytes

GIB = 1 << 30
MEMINFO = f"MemTotal:       {32 * GIB // 1024} kB\nMemFree:         100 kB\nMemAvailable:   {20 * GIB // 1024} kB\n"
UNLIMITED = {"/proc/meminfo": MEMINFO, "/sys/fs/cgroup/memory.max": "max\n", "/sys/fs/cgroup/memory.current": "5\n"}


def limited(limit: int, used: int, cached: int = 0) -> dict[str, str]:
    return {
        "/proc/meminfo": MEMINFO,
        "/sys/fs/cgroup/memory.max": f"{limit}\n",
        "/sys/fs/cgroup/memory.current": f"{used}\n",
        "/sys/fs/cgroup/memory.stat": f"anon 1\ninactive_file {cached}\nactive_file 7\n",
    }


@pytest.mark.parametrize(
    ("files", "available", "total"),
    [
        ({"/proc/meminfo": MEMINFO}, 20 * GIB, 32 * GIB),
        (UNLIMITED, 20 * GIB, 32 * GIB),
        (limited(4 * GIB, GIB), 3 * GIB, 4 * GIB),
        (limited(4 * GIB, 3 * GIB, cached=2 * GIB), 3 * GIB, 4 * GIB),  # files that were read go when memory is needed
        (limited(64 * GIB, GIB), 20 * GIB, 32 * GIB),  # a limit above the machine's memory is none
        (limited(4 * GIB, 5 * GIB), 0, 4 * GIB),
        ({}, None, None),
        ({"/proc/meminfo": "MemAvailable: many kB\n"}, None, None),
        ({**limited(4 * GIB, GIB), "/proc/meminfo": ""}, 3 * GIB, None),
    ],
)
def test_memory(files: dict[str, str], available: int | None, total: int | None) -> None:
    assert (available_bytes(files.get), total_bytes(files.get)) == (available, total)
