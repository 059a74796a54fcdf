"""Quantities as Kubernetes writes them, and as accelerate does."""

from fractions import Fraction

import pytest
from ams_common.quantity import (
    InvalidQuantity,
    format_bytes,
    format_count,
    format_duration,
    parse_bytes,
    parse_memory,
    parse_quantity,
)
from hypothesis import given
from hypothesis import strategies as st

WHOLE = st.integers(min_value=0, max_value=2**60)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (0, 0),
        (7, 7),
        ("0", 0),
        ("64Mi", 64 << 20),
        ("8Gi", 8 << 30),
        ("1Ei", 1 << 60),
        ("1.5Gi", 3 << 29),
        (".5Ki", 512),
        ("5.", 5),
        ("2k", 2000),
        ("3M", 3_000_000),
        ("1E", 10**18),
        ("1e3", 1000),
        ("1E3", 1000),
        ("12e-1", Fraction(6, 5)),
        ("500m", Fraction(1, 2)),
        ("1u", Fraction(1, 10**6)),
        ("1n", Fraction(1, 10**9)),
    ],
)
def test_a_quantity_is_exact(text: str | int, number: Fraction | int) -> None:
    assert parse_quantity(text) == number


@pytest.mark.parametrize(
    "text", ["", " ", "Gi", "8 Gi", "8gi", "8GiB", "-1", "+1", "1,5Gi", "1e", "1e999", "0x10", "8Gi\n", "٣", ".", "nan"]
)
def test_what_is_no_quantity_is_named(text: str) -> None:
    with pytest.raises(InvalidQuantity) as caught:
        parse_quantity(text)
    assert str(caught.value) == f"{text!r} is not a quantity such as 512Mi, 8Gi or 500m"


def test_negative_numbers_are_refused() -> None:
    with pytest.raises(InvalidQuantity, match="-1 is negative"):
        parse_quantity(-1)


def test_bytes_are_rounded_up() -> None:
    assert parse_bytes("1500m") == 2


@pytest.mark.parametrize(
    ("text", "count"),
    [("8GiB", 8 << 30), ("500MB", 500_000_000), ("1KB", 1000), ("1KiB", 1024), ("2 TiB", 2 << 40), ("8Gi", 8 << 30)],
)
def test_memory_is_also_read_in_accelerates_spelling(text: str, count: int) -> None:
    assert parse_memory(text) == count


@given(WHOLE)
def test_a_plain_number_means_itself(number: int) -> None:
    assert parse_bytes(str(number)) == parse_bytes(number) == number


@given(WHOLE, st.sampled_from(["k", "M", "G", "T", "P", "E"]))
def test_binary_units_are_the_larger_ones(number: int, unit: str) -> None:
    binary = parse_quantity(f"{number}{unit.upper()}i")
    assert parse_quantity(f"{number}{unit}") * 1024 >= binary >= parse_quantity(f"{number}{unit}")


@given(st.text(max_size=10))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        assert parse_memory(text) >= 0
    except InvalidQuantity as refusal:
        assert repr(text) in str(refusal)  # noqa: PT017 - both outcomes are right, and one of them must come


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (7_300_000_000, "6.8 GiB"), (1 << 50, "1024.0 TiB")],
)
def test_bytes_for_people(count: int, words: str) -> None:
    assert format_bytes(count) == words


@pytest.mark.parametrize(
    ("count", "text"),
    [(3_754_622_976, "3.75B"), (134_515_008, "135M"), (999, "999"), (1_500, "1.5K"), (2 * 10**12, "2T")],
)
def test_counts_for_people(count: int, text: str) -> None:
    assert format_count(count) == text


def test_durations_for_people() -> None:
    assert [format_duration(each) for each in (0, 45.4, 190, 7500)] == ["0s", "45s", "3m10s", "2h05m"]
