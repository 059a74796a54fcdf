"""How numbers are said in explanations."""

from collections.abc import Iterable

from ams_common.keys import ANONYMOUS_ID


def duration(seconds: float) -> str:
    """`340 ms`, `1.2 s`, `3 min 12 s`."""
    if seconds < 0.0995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.2g} s" if seconds < 1 else f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def count(number: float, one: str, many: str = "") -> str:
    """`1 request`, `2,000 requests`."""
    number = round(number)
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def listed(items: Iterable[str], most: int = 5) -> str:
    """`a, b and 3 more`."""
    names = list(items)
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} more"


def key_name(key: str) -> str:
    """A key's opaque id, as people should see it."""
    return f"key {key}" if key and key != ANONYMOUS_ID else "requests without a key"
