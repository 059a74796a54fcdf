"""Where a long recording is cut."""

import itertools

import numpy as np
from ams_pod.media.windows import windows
from hypothesis import given, settings
from hypothesis import strategies as st

RATE = 1000


@settings(deadline=None)
@given(st.integers(1, 200 * RATE), st.integers(0, 2**32 - 1))
def test_windows_are_whole_and_short_enough(length: int, seed: int) -> None:
    samples = np.random.default_rng(seed).standard_normal(length).astype(np.float32)
    found = windows(samples, RATE)
    assert found[0][0] == 0
    assert found[-1][1] == length
    assert all(before[1] == after[0] for before, after in itertools.pairwise(found))
    assert all(0 < end - start <= 30 * RATE for start, end in found)
    assert all(end - start >= 24 * RATE for start, end in found[:-1])


def test_it_is_cut_where_it_is_quiet() -> None:
    samples = np.ones(90 * RATE, np.float32)
    for pause in (27.5, 52.1):
        samples[int(pause * RATE) : int((pause + 0.5) * RATE)] = 0
    ends = [end / RATE for _, end in windows(samples, RATE)]
    assert 27.5 <= ends[0] <= 28.0
    assert 52.1 <= ends[1] <= 52.6
    assert 76.6 <= ends[2] <= 82.6


def test_silence_is_cut_as_late_as_may_be() -> None:
    assert len(windows(np.zeros(300 * RATE, np.float32), RATE)) == 11
