"""Kubernetes quantities: `8Gi`, `500m`, `64Mi`, `1e3`."""

import re
from decimal import ROUND_CEILING, Decimal
from fractions import Fraction

# Unsigned: no field of ours takes a negative quantity.
PATTERN = r"^([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]{1,2})?$"

_QUANTITY = re.compile(PATTERN.removesuffix("$") + r"\Z")
_SUFFIXES: dict[str, Fraction] = {
    "": Fraction(1),
    **{letter: Fraction(1, 1000**power) for power, letter in enumerate("mun", start=1)},
    **{letter: Fraction(1000**power) for power, letter in enumerate("kMGTPE", start=1)},
    **{f"{letter}i": Fraction(1024**power) for power, letter in enumerate("KMGTPE", start=1)},
}
_ACCELERATE = re.compile(r"^([0-9.]+)\s*([KMGT]i?)B$")


class InvalidQuantity(ValueError):
    """Not a quantity; the message is a sentence that names it."""


def parse_quantity(value: str | int) -> Fraction:
    """The exact number that a quantity stands for: bytes, cores or a count."""
    if isinstance(value, int):
        if value < 0:
            raise InvalidQuantity(f"{value} is negative")
        return Fraction(value)
    if not (found := _QUANTITY.match(value)):
        raise InvalidQuantity(f"{value!r} is not a quantity such as 512Mi, 8Gi or 500m")
    number, suffix = Fraction(Decimal(found[1])), found[3] or ""
    if suffix[:1] in ("e", "E") and suffix not in _SUFFIXES:
        return number * Fraction(10) ** int(suffix[1:])
    return number * _SUFFIXES[suffix]


def parse_bytes(value: str | int) -> int:
    """A quantity in whole bytes, rounded up as Kubernetes does."""
    exact = parse_quantity(value)
    return -(-exact.numerator // exact.denominator)


def parse_memory(value: str | int) -> int:
    """As `parse_bytes`, and also in accelerate's spelling: `8GiB`, `500MB`."""
    if isinstance(value, str) and (found := _ACCELERATE.match(value)):
        number, unit = found.groups()
        return parse_bytes(number + (unit if unit != "K" else "k"))
    return parse_bytes(value)


def format_bytes(count: float) -> str:
    """Bytes for people: `6.8 GiB`."""
    size = Decimal(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            break
        size /= 1024
    return f"{size.to_integral_value(ROUND_CEILING) if unit == 'B' else round(size, 1)} {unit}"


def format_count(count: int) -> str:
    """A count for people in three digits: `3.75B`, `135M`, `999`."""
    for unit, size in (("T", 10**12), ("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)


def format_duration(seconds: float) -> str:
    """`45s`, `3m10s`, `2h05m`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02}m"
