"""Laws of the choice of frames."""

from bisect import bisect_right
from itertools import pairwise

from ams_pod.media.frames import choose_frames
from hypothesis import given
from hypothesis import strategies as st

times = st.lists(st.integers(0, 10**8), min_size=1, max_size=200, unique=True).map(
    lambda milliseconds: [time / 1000 for time in sorted(milliseconds)]
)
counts = st.integers(1, 64)


@given(times, counts)
def test_count_order_and_ends(shown: list[float], count: int) -> None:
    chosen = choose_frames(shown, count)
    assert 1 <= len(chosen) <= count
    assert chosen == sorted(set(chosen))
    assert all(0 <= index < len(shown) for index in chosen)
    if count > 1:
        assert (chosen[0], chosen[-1]) == (0, len(shown) - 1)


@given(times, st.integers(2, 64))
def test_each_instant_has_what_is_on_screen(shown: list[float], count: int) -> None:
    step = (shown[-1] - shown[0]) / (count - 1)
    chosen = set(choose_frames(shown, count))
    for number in range(count):
        on_screen = bisect_right(shown, shown[0] + number * step) - 1
        assert chosen & {on_screen - 1, on_screen, on_screen + 1}


@given(st.integers(1, 500), st.integers(2, 64))
def test_at_a_constant_rate_gaps_differ_by_one_at_most(length: int, count: int) -> None:
    chosen = choose_frames([index / 25 for index in range(length)], count)
    assert len(chosen) == min(count, length)
    gaps = {b - a for a, b in pairwise(chosen)}
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_none() -> None:
    assert choose_frames([], 8) == []
    assert choose_frames([3.0], 8) == [0]
    assert choose_frames([0.0, 1.0, 2.0], 1) == [1]
