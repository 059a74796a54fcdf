"""Which beginnings are kept: found only by the same tokens under the same salt, and the least used go first."""

import pytest
from ams_pod.engines.builtin.model.prefix_tree import BLOCK, PrefixTree, common_prefix
from hypothesis import given
from hypothesis import strategies as st


def tokens(*blocks: int, rest: int = 0) -> list[int]:
    """Each block all of one number, and some tokens behind them."""
    return [number for block in blocks for number in [block] * BLOCK] + [0] * rest


def test_whole_blocks_are_kept_and_found_by_what_is_before_them() -> None:
    tree = PrefixTree(10)
    assert tree.add("", tokens(1, 2, rest=5)) == [(0, 0), (BLOCK, 1)]
    assert tree.add("", tokens(1, 3)) == [(BLOCK, 2)]
    assert tree.find("", tokens(1, 2, 9)) == [0, 1]
    assert tree.find("", tokens(1, 3)) == [0, 2]
    assert tree.find("", tokens(2)) == []
    assert tree.count("", tokens(1, 2, rest=15)) == 2 * BLOCK
    assert tree.count("", tokens(1)[:-1]) == 0
    assert tree.add("", tokens(1, 2)) == []


def test_another_salt_finds_nothing() -> None:
    tree = PrefixTree(10)
    tree.add("mine", tokens(1, 2))
    assert tree.find("yours", tokens(1, 2)) == []
    assert tree.find("mine", tokens(1, 2)) == [0, 1]


def test_the_least_recently_used_goes_first_and_the_end_of_a_prompt_before_its_beginning() -> None:
    tree = PrefixTree(4)
    tree.add("", tokens(1, 2))
    tree.add("", tokens(3, 4))
    tree.find("", tokens(1, 2))
    tree.add("", tokens(5))
    assert tree.count("", tokens(3, 4)) == BLOCK, "its second block went"
    tree.add("", tokens(6))
    assert tree.count("", tokens(3, 4)) == 0
    assert tree.count("", tokens(1, 2)) == 2 * BLOCK


def test_what_is_longer_than_the_store_is_kept_as_far_as_it_goes() -> None:
    tree = PrefixTree(3)
    tree.add("", tokens(9))
    assert [number for _, number in tree.add("", tokens(1, 2, 3, 4, 5))] == [1, 2, 0]
    assert tree.count("", tokens(1, 2, 3, 4, 5)) == 3 * BLOCK
    assert PrefixTree(0).add("", tokens(1)) == []


def test_forgotten_blocks_take_those_behind_them_along() -> None:
    tree = PrefixTree(10)
    tree.add("", tokens(1, 2, 3))
    tree.add("", tokens(1, 4))
    tree.remove({1})
    assert len(tree) == 2
    assert tree.count("", tokens(1, 2, 3)) == BLOCK
    assert tree.count("", tokens(1, 4)) == 2 * BLOCK
    tree.clear()
    assert len(tree) == 0
    assert tree.count("", tokens(1)) == 0


@given(
    st.integers(0, 6),
    st.lists(st.tuples(st.booleans(), st.sampled_from("ab"), st.lists(st.integers(1, 3), max_size=5)), max_size=40),
)
def test_what_is_found_was_put_there_and_numbers_are_never_shared(
    size: int, asked: list[tuple[bool, str, list[int]]]
) -> None:
    tree, holds = PrefixTree(size), dict[int, tuple[str, tuple[int, ...]]]()
    for adds, salt, blocks in asked:
        given_tokens = tokens(*blocks)
        if adds:
            for start, number in tree.add(salt, given_tokens):
                holds[number] = (salt, tuple(given_tokens[: start + BLOCK]))
        found = tree.find(salt, given_tokens)
        assert len(found) * BLOCK == tree.count(salt, given_tokens)
        for index, number in enumerate(found):
            assert holds[number] == (salt, tuple(given_tokens[: (index + 1) * BLOCK]))
        if adds:
            assert len(found) == min(len(blocks), size)
        assert len(tree) <= size
        assert 0 <= tree.end <= size


@given(st.lists(st.integers(1, 2), max_size=12), st.lists(st.integers(1, 2), max_size=12), st.integers(0, 15))
def test_how_far_two_prompts_begin_alike(one: list[int], other: list[int], rest: int) -> None:
    same = 0
    while same < min(len(one), len(other)) and one[same] == other[same]:
        same += 1
    assert common_prefix(tokens(*one, rest=rest), tokens(*other, rest=rest)) == same * BLOCK


@pytest.mark.parametrize("count", [1, 5])
def test_a_store_is_filled_from_its_beginning(count: int) -> None:
    tree = PrefixTree(10)
    tree.add("", tokens(*range(1, count + 1)))
    assert tree.end == count
