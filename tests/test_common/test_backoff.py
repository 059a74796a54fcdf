"""Waits between tries."""

import pytest
from ams_common.backoff import backoff_seconds


@pytest.mark.parametrize(
    ("failures", "chance", "seconds"),
    [(1, 1, 0.5), (2, 1, 1.0), (4, 1, 4.0), (5, 1, 5.0), (10_000, 1, 5.0), (1, 0, 0.25), (3, 0.5, 1.5)],
)
def test_waits_double_up_to_a_bound_and_spread_over_their_upper_half(
    failures: int, chance: float, seconds: float
) -> None:
    assert backoff_seconds(failures, chance, first=0.5, longest=5.0) == seconds
