"""Memory that processes on this machine may still take, container limits included: from the kernel's files, read by
whoever calls."""

from collections.abc import Callable

ReadText = Callable[[str], str | None]
"""The text of a file, None where it doesn't exist or can't be read."""

MEMINFO = "/proc/meminfo"
CGROUP = "/sys/fs/cgroup"  # version 2; a container sees its own group there


def available_bytes(read: ReadText) -> int | None:
    """Bytes that may still be taken without swapping: of the machine, or of a container's limit where that is less.

    None where the machine doesn't tell, as without /proc.
    """
    machine = _meminfo(read(MEMINFO) or "", "MemAvailable")
    limit, used = _number(read(f"{CGROUP}/memory.max")), _number(read(f"{CGROUP}/memory.current"))
    if limit is None or used is None:  # "max" stands for no limit
        return machine
    # Cached files count as used, and go when a process needs their memory.
    group = limit - used + _inactive_file(read(f"{CGROUP}/memory.stat") or "")
    return max(0, group if machine is None else min(machine, group))


def total_bytes(read: ReadText) -> int | None:
    """The machine's memory, or the container's limit, in bytes; None where the machine doesn't tell."""
    machine, limit = _meminfo(read(MEMINFO) or "", "MemTotal"), _number(read(f"{CGROUP}/memory.max"))
    if machine is None or limit is None:
        return machine
    return min(machine, limit)


def _meminfo(text: str, name: str) -> int | None:
    for line in text.splitlines():
        if line.startswith(f"{name}:") and (kibibytes := _number(line.split()[1])) is not None:
            return kibibytes * 1024
    return None


def _inactive_file(text: str) -> int:
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name == "inactive_file":
            return _number(value) or 0
    return 0


def _number(text: str | None) -> int | None:
    text = (text or "").strip()
    return int(text) if text.isascii() and text.isdigit() else None
