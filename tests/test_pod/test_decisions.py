"""The engine's pure decisions: what a step reads, which rows move, how attention is cut, which token is drawn."""

import pytest
from ams_pod.engines.builtin.memory.device_memory import CacheSize, fit_cache
from ams_pod.engines.builtin.scheduler.schedule import ALONE_TOKENS, chunk_budget, close_ranks, share_budget
from ams_pod.engines.builtin.threads import choose_threads
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("running", "cost", "budget"),
    [
        (0, None, ALONE_TOKENS),
        (0, 0.0001, ALONE_TOKENS),
        (0, 0.002, 125),
        (0, 0.1, 64),
        (3, None, 128),
        (3, 0.0, 128),
        (3, 0.0001, 128),
        (3, 0.002, 100),
        (3, 9.0, 16),
    ],
)
def test_prompts_take_what_the_gap_allows(running, cost, budget):
    assert chunk_budget(running > 0, cost) == budget


@given(st.lists(st.integers(1, 2000), max_size=8), st.integers(1, 600))
def test_a_step_is_full_and_the_oldest_prompt_gets_half_of_it(remaining, budget):
    taken = share_budget(remaining, budget)
    assert all(0 <= count <= whole for count, whole in zip(taken, remaining, strict=True))
    assert sum(taken) == min(budget, sum(remaining))
    assert not remaining or taken[0] >= min(remaining[0], budget / 2)
    assert sum(0 < count < whole for count, whole in zip(taken, remaining, strict=True)) <= 2


@pytest.mark.parametrize(
    ("remaining", "budget", "taken"),
    [
        ([30, 40, 50], 120, [30, 40, 50]),
        ([30, 100, 90], 100, [30, 70, 0]),  # first come, first served
        ([3000, 30, 20], 128, [78, 30, 20]),  # questions behind a book
        ([3000, 30, 60, 20], 128, [64, 30, 14, 20]),
        ([3000, 30, 3000, 500], 512, [256, 30, 0, 226]),
        ([10, 3000, 30], 100, [10, 60, 30]),
        ([3000, 30], 16, [8, 8]),
        ([3000, 8], 16, [8, 8]),
        ([3000, 30, 20], 14, [14, 0, 0]),  # a morsel is not worth its call
        ([3000, 5, 30], 14, [9, 5, 0]),  # but a whole question is
        ([3000, 7], 15, [8, 7]),
        ([20, 10, 3000, 40, 50], 120, [20, 10, 50, 40, 0]),  # behind others that end
        ([40, 20, 100], 30, [15, 15, 0]),  # half of it is far shorter
        ([40, 21], 30, [30, 0]),
    ],
)
def test_short_prompts_pass_long_ones(remaining, budget, taken):
    assert share_budget(remaining, budget) == taken


@given(st.lists(st.booleans(), max_size=12))
def test_rows_close_ranks_without_moving_up(leaving):
    order = close_ranks(leaving)
    assert sorted(order) == [index for index, leaves in enumerate(leaving) if not leaves]
    assert all(source >= row for row, source in enumerate(order))
    moved = [source for row, source in enumerate(order) if source != row]
    assert len(moved) <= sum(leaving)


GIB = 1 << 30


@pytest.mark.parametrize(
    ("own", "per_token", "rows", "available", "setting", "size"),
    [
        (8192, 23040, 16, 20 * GIB, 0, CacheSize(8192, 16 * 8192, 8192)),
        (32768, 131072, 16, 16 * GIB, 0, CacheSize(32768, 65536, 4096)),  # one may be long, not all
        (131072, 147456, 16, 61 * GIB, 0, CacheSize(131072, 222080, 13824)),
        (131072, 147456, 16, 16 * GIB, 0, CacheSize(58240, 58240, 3584)),
        (4096, 1 << 20, 32, GIB, 0, CacheSize(512, 512, 512)),
        (256, 1 << 20, 32, GIB, 0, CacheSize(256, 512, 256)),
        (32768, 131072, 16, 16 * GIB, 1024, CacheSize(1024, 16 * 1024, 1024)),
        (32768, 131072, 16, 4 * GIB, 8192, CacheSize(8192, 16384, 8192)),
        (32768, 131072, 16, GIB, 8192, CacheSize(8192, 8192, 8192)),
    ],
)
def test_the_cache_fits_half_the_free_memory(own, per_token, rows, available, setting, size):
    assert fit_cache(own, per_token, rows, available, setting, 0) == size


@pytest.mark.parametrize(
    ("physical", "allowed", "quota", "threads"),
    [(8, 16, "max 100000\n", 8), (8, 4, "max 100000", 4), (8, 16, "150000 100000", 2), (8, 16, "50000 100000", 1),
     (8, 16, "max", 8), (8, 16, "", 8)],
)  # fmt: skip
def test_threads_stay_within_cores_and_limits(physical, allowed, quota, threads):
    assert choose_threads(physical, allowed, quota) == threads
