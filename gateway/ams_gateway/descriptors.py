"""File descriptors: as many as the system allows, and how many clients may take theirs at once."""

import resource

_MOST = 1 << 16
_RESERVED = 64  # files of our own: watches, spools, the log
_FEWEST_CLIENTS = 16


def raise_descriptor_limit() -> int:
    """Raise the soft limit of this process to the hard one, at most 65,536; the limit that holds now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = _MOST if hard == resource.RLIM_INFINITY else min(hard, _MOST)
    if soft == resource.RLIM_INFINITY or soft >= highest:
        return _MOST if soft == resource.RLIM_INFINITY else soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest, hard))
    return highest


def most_clients(descriptors: int) -> int:
    """How many clients may be connected: each request may need a second descriptor for its pod."""
    return max((descriptors - _RESERVED) // 2, _FEWEST_CLIENTS)
