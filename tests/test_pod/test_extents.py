"""The pool of keys and values: extents never overlap, calls cover every row, and contents survive moves."""

import itertools

import pytest
import torch
from ams_pod.engines.builtin.model.extents import Call, Extent, Extents, attention_calls, capacity_for, packed
from ams_pod.engines.builtin.model.pool import KeyValuePool
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule


@given(st.integers(1, 5000), st.integers(0, 5000))
def test_a_class_holds_what_was_asked_for_and_wastes_at_most_a_third(tokens: int, more: int) -> None:
    capacity = capacity_for(tokens, tokens + more)
    assert tokens <= capacity <= max(64, 1.5 * tokens)
    assert capacity <= tokens + more


def test_classes_are_few() -> None:
    assert sorted({capacity_for(tokens, 1000) for tokens in range(1, 1001)}) == [
        64, 96, 128, 192, 256, 384, 512, 768, 1000,
    ]  # fmt: skip


@given(st.lists(st.one_of(st.integers(1, 60), st.none()), max_size=60), st.randoms())
def test_extents_never_overlap_and_nothing_is_lost(asked: list[int | None], random: object) -> None:
    extents, taken = Extents(200), []
    for size in asked:
        if size is None:
            if taken:
                extents.give(taken.pop(random.randrange(len(taken))))  # type: ignore[attr-defined]
        elif (found := extents.take(size)) is not None:
            taken.append(found)
        ordered = sorted(taken)
        assert all(left.end <= right.offset for left, right in itertools.pairwise(ordered))
        assert extents.free == 200 - sum(each.capacity for each in taken)
        assert extents.end >= max((each.end for each in taken), default=0)
    for each in taken:
        extents.give(each)
    assert extents.take(200) == Extent(0, 200)


def test_a_part_below_a_place_is_found_or_not() -> None:
    extents = Extents(300)
    first, second = extents.take(100), extents.take(100)
    assert first == Extent(0, 100)
    assert second is not None
    assert extents.take(50, below=150) is None
    extents.give(first)
    assert extents.take(50, below=second.offset) == Extent(0, 50)
    assert extents.take(60, below=second.offset) is None


def test_packing_leaves_no_hole_and_keeps_the_order() -> None:
    assert packed({1: Extent(200, 64), 0: Extent(64, 64)}) == {0: Extent(0, 64), 1: Extent(64, 64)}


@given(st.lists(st.tuples(st.integers(1, 4000), st.booleans()), min_size=1, max_size=32))
def test_attention_covers_every_row_once_and_wide_enough(rows: list[tuple[int, bool]]) -> None:
    extents, at = [], 0
    for length, hole in rows:
        capacity = capacity_for(length, 4000)
        at += capacity if hole else 0
        extents.append(Extent(at, capacity))
        at += capacity
    lengths = [length for length, _ in rows]
    calls = attention_calls(extents, lengths)
    assert sorted(row for call in calls for row in call.rows if row is not None) == list(range(len(rows)))
    for call in calls:
        for place, row in enumerate(call.rows):
            if row is not None:
                assert extents[row].offset == call.first.offset + place * call.first.capacity
                assert lengths[row] <= call.width <= call.first.capacity == extents[row].capacity


def beside(*capacities: int) -> list[Extent]:
    ends = [0, *itertools.accumulate(capacities)]
    return [Extent(start, capacity) for start, capacity in zip(ends, capacities, strict=False)]


def test_one_long_row_does_not_widen_the_others() -> None:
    extents = beside(*[128] * 10, 4096, *[128] * 5)
    calls = attention_calls(extents, [100] * 10 + [4000] + [100] * 5)
    assert [(len(call.rows), call.width) for call in calls] == [(10, 112), (5, 112), (1, 4000)]


def test_rows_of_one_class_that_differ_much_are_apart() -> None:
    assert [call.rows for call in attention_calls(beside(4096, 4096), [2100, 4000])] == [(0,), (1,)]


def test_similar_rows_share_one_call_in_the_order_of_their_extents() -> None:
    extents = [Extent(128, 128), Extent(0, 128), Extent(256, 128)]
    assert attention_calls(extents, [100, 110, 90]) == [Call(Extent(0, 128), (1, 0, 2), 112)]


def test_a_small_hole_is_read_in_vain_and_a_large_one_is_not() -> None:
    small = [Extent(0, 64), Extent(128, 64)]
    assert [call.rows for call in attention_calls(small, [60, 60])] == [(0, None, 1)]
    large = [Extent(0, 1024), Extent(2048, 1024)]
    assert [call.rows for call in attention_calls(large, [900, 900])] == [(0,), (1,)]


HEADS, SIZE, LAYERS = 2, 4, 2


def pool_of(tokens: int, longest: int) -> KeyValuePool:
    return KeyValuePool(LAYERS, tokens, longest, HEADS, SIZE, torch.float32, "cpu")


def written(pool: KeyValuePool, slot: int, start: int, values: list[float]) -> None:
    """Token `start + i` of the slot is values[i], all through."""
    rows = pool.rows_of([(pool.place(slot), start, start + len(values))])
    block = torch.tensor(values).repeat_interleave(2 * HEADS)[:, None].expand(-1, SIZE)
    for layer in pool.layers:
        layer.index_copy_(0, rows, block.contiguous())


def read(pool: KeyValuePool, slot: int, tokens: int) -> list[float]:
    found = {
        tuple(each[0, head, :tokens, cell].tolist())
        for layer in range(LAYERS)
        for each in pool.keys(layer, pool.place(slot))
        for head in range(HEADS)
        for cell in range(SIZE)
    }
    (one,) = found  # the same in all layers, heads and cells, of keys and of values
    return list(one)


class Slots(RuleBasedStateMachine):
    """Rows come, grow, leave and close ranks in any order; what each wrote is there as long as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = pool_of(1000, 400)
        self.rows: list[list[float] | None] = []
        self.counter = 0.0

    def fresh(self, count: int) -> list[float]:
        self.counter += count
        return [self.counter - index for index in range(count)]

    @rule(tokens=st.integers(1, 400))
    def begin(self, tokens: int) -> None:
        slot, free, room = len(self.rows), self.pool.free, self.pool.capacity_for(tokens)
        assert self.pool.reserve(slot, tokens, 0) == (room <= free)
        if room <= free:
            values = self.fresh(tokens)
            written(self.pool, slot, 0, values)
            self.rows.append(values)

    @precondition(lambda self: any(self.rows))
    @rule(data=st.data(), more=st.integers(1, 150))
    def grow(self, data: st.DataObject, more: int) -> None:
        slot = data.draw(st.sampled_from([slot for slot, row in enumerate(self.rows) if row is not None]))
        row = self.rows[slot]
        assert row is not None
        more = min(more, 400 - len(row))
        if more and self.pool.reserve(slot, len(row) + more, len(row)):
            values = self.fresh(more)
            written(self.pool, slot, len(row), values)
            row += values

    @precondition(lambda self: any(self.rows))
    @rule(data=st.data())
    def vacate(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from([slot for slot, row in enumerate(self.rows) if row is not None]))
        self.pool.vacate(slot)
        self.rows[slot] = None

    @rule(data=st.data())
    def compact(self, data: st.DataObject) -> None:
        leaving = [row is None or data.draw(st.booleans()) for row in self.rows]
        order = [slot for slot, leaves in enumerate(leaving) if not leaves]
        self.rows = [self.rows[slot] for slot in order]
        self.pool.compact(order, [len(row or ()) for row in self.rows])

    @rule()
    def release(self) -> None:
        self.pool.release()

    @invariant()
    def everything_is_there(self) -> None:
        for slot, row in enumerate(self.rows):
            if row is not None:
                assert read(self.pool, slot, len(row)) == row


TestSlots = Slots.TestCase


def test_a_row_alone_grows_to_the_whole_pool() -> None:
    pool = pool_of(300, 300)
    values = [float(index) for index in range(1, 201)]
    assert pool.reserve(0, 200, 0)
    written(pool, 0, 0, values)
    assert pool.reserve(0, 300, 200)
    assert read(pool, 0, 200) == values


def test_where_others_may_not_move_there_may_be_no_room() -> None:
    pool = pool_of(256, 256)
    for slot in range(4):
        assert pool.reserve(slot, 64, 0)
    for slot in (0, 2):
        pool.vacate(slot)
    assert pool.free == 128
    assert not pool.reserve(4, 128, 0, may_pack=False)
    assert pool.reserve(4, 128, 0)


def test_released_memory_reads_as_zeros_and_the_rest_stays() -> None:
    pool = KeyValuePool(1, 4096, 4096, 2, 64, torch.float32, "cpu")
    for slot in (0, 1):
        assert pool.reserve(slot, 1024, 0)
        pool.layers[0].fill_(7.0)
    pool.vacate(1)
    pool.release()
    keys, values = pool.keys(0, pool.place(0))
    assert keys.eq(7).all()
    assert values.eq(7).all()
    assert pool.reserve(1, 1024, 0)
    keys, values = pool.keys(0, pool.place(1))
    assert keys.eq(0).all()
    assert values.eq(0).all()


@pytest.mark.parametrize("tokens", [1, 64, 100])
def test_a_place_is_kept_while_it_is_large_enough(tokens: int) -> None:
    pool = pool_of(512, 512)
    assert pool.reserve(0, tokens, 0)
    place = pool.place(0)
    assert pool.reserve(0, place.capacity, tokens)
    assert pool.place(0) == place
