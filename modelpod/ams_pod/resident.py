"""What the kernel tells of memory: files of /proc and of the control group, and what this process holds."""

import os


def read_text(path: str) -> str | None:
    """The text of a file of the kernel; None where there is none, or it can't be read."""
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except (OSError, ValueError):
        return None


def resident_bytes() -> int:
    """Physical memory of this process in bytes; 0 where the system doesn't tell."""
    pages = (read_text("/proc/self/statm") or "0 0").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def anonymous_bytes() -> int:
    """What of it belongs to no file, in bytes; 0 where the system doesn't tell."""
    for line in (read_text("/proc/self/status") or "").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    return 0
