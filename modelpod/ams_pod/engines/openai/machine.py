"""Memory of the machine, or of the container, beside what an engine takes."""

import os

from ams_common import memory

from ams_pod.engines.port import MemoryUsage
from ams_pod.resident import read_text, resident_bytes


def memory_usage(device: str, engine_bytes: int) -> MemoryUsage:
    """`engine_bytes` are those of the engine's processes, 0 where they aren't known."""
    page = os.sysconf("SC_PAGE_SIZE")
    available = memory.available_bytes(read_text)
    return MemoryUsage(
        device=device,
        ram_total_bytes=memory.total_bytes(read_text) or os.sysconf("SC_PHYS_PAGES") * page,
        ram_available_bytes=os.sysconf("SC_AVPHYS_PAGES") * page if available is None else available,
        process_bytes=resident_bytes() + engine_bytes,
    )
