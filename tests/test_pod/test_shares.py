"""Weighted fair queueing by key: who is next, and who holds too much."""

import pytest
from ams_pod.shares import HEAD_START, MARGIN, FairShares, Share, over_their_share
from hypothesis import given
from hypothesis import strategies as st

A, B, C = Share("a"), Share("b"), Share("c")
WEIGHTS = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 1000), min_size=1)


def serve(fair: FairShares, share: Share, seconds: float) -> None:
    """In pieces, as steps are."""
    pieces = int(seconds / 0.05) + 1
    for _ in range(pieces):
        fair.charge(share, seconds / pieces)


def key_of(share: Share) -> Share:
    return share


@given(WEIGHTS, st.lists(st.floats(0.001, 0.5), min_size=1, max_size=7))
def test_keys_that_always_want_more_are_served_in_proportion_to_their_weights(weights, pieces) -> None:
    shares, fair = [Share(key, weight) for key, weight in weights.items()], FairShares()
    given_to = dict.fromkeys(weights, 0.0)
    for share in shares:
        fair.enter(share)
    for number in range(3000):
        turn = fair.in_order(shares, key_of)[0]
        seconds = pieces[number % len(pieces)]
        fair.charge(turn, seconds)
        given_to[turn.key] += seconds
    # Whatever the weights, no key is ahead of another by more than a piece and its head start.
    for one in shares:
        for other in shares:
            ahead = given_to[one.key] / one.weight - given_to[other.key] / other.weight
            assert ahead <= (max(pieces) + HEAD_START) / one.weight + 1e-6


@given(st.integers(2, 200), st.floats(0.01, 0.5))
def test_nobody_starves(others: int, piece: float) -> None:
    fair, light = FairShares(), Share("light", 1)
    crowd = [Share(f"k-{number}", 1) for number in range(others)]
    for share in (*crowd, light):
        fair.enter(share)
        fair.charge(share, piece)
    served = 0
    for _ in range(3 * (others + 1)):
        turn = fair.in_order([*crowd, light], key_of)[0]
        fair.charge(turn, piece)
        served += turn is light
    assert served >= 2


def test_absence_earns_no_more_than_the_head_start() -> None:
    fair = FairShares()
    fair.enter(A)
    fair.enter(B)
    serve(fair, A, 10_000.0)
    fair.enter(B)
    assert fair.time(A) - fair.time(B) == pytest.approx(HEAD_START, abs=0.1)
    serve(fair, B, HEAD_START + MARGIN)
    assert not fair.behind(B, A)


def test_who_used_more_than_its_share_doesnt_lose_that_by_pausing() -> None:
    fair = FairShares()
    serve(fair, A, 1.0)
    serve(fair, B, 50.0)
    fair.enter(A)
    fair.enter(B)
    assert fair.time(B) - fair.time(A) >= HEAD_START - 0.1


def test_a_key_is_behind_only_by_more_than_the_margin_and_never_behind_itself() -> None:
    fair = FairShares()
    serve(fair, A, 5.0)
    fair.enter(B)
    assert fair.behind(B, A)
    assert not fair.behind(A, B)
    assert not fair.behind(A, Share("a", 500))
    serve(fair, B, HEAD_START - MARGIN / 2)
    assert not fair.behind(B, A)


def test_the_order_within_a_key_stays() -> None:
    fair = FairShares()
    serve(fair, A, 2.0)
    fair.enter(B)
    items = [("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    ordered = fair.in_order(items, lambda item: Share(item[0]))
    assert ordered == [("b", 1), ("b", 2), ("a", 1), ("a", 2)]


def test_a_lone_key_is_served_as_if_there_were_no_keys() -> None:
    fair = FairShares()
    items = list(range(100))
    for _ in range(10):
        serve(fair, A, 7.0)
        assert fair.in_order(items, lambda _: A) == items


def test_keys_are_forgotten_when_they_no_longer_matter() -> None:
    fair = FairShares()
    for number in range(50_000):
        fair.charge(Share(f"k-{number}"), 0.01)
    assert len(fair) <= 4096
    serve(fair, A, 1000.0)
    for number in range(5000):
        fair.enter(Share(f"n-{number}"))
    assert len(fair) <= 4096
    assert fair.time(A) - fair.time(Share("n-0")) == pytest.approx(HEAD_START, abs=0.1)


@pytest.mark.parametrize(
    ("held", "asking", "places", "over"),
    [
        ({A: 10}, B, 10, ["a"]),
        ({A: 10}, A, 10, []),  # one key alone may hold all, but no more
        ({A: 5, B: 5}, A, 10, []),
        ({A: 6, B: 4}, B, 10, ["a"]),
        ({A: 6, B: 4}, C, 10, ["a", "b"]),
        ({A: 9, B: 1}, C, 10, ["a"]),
        ({A: 1}, B, 1, []),  # nobody holds more than one place
        ({Share("a", 1000): 10}, Share("b", 1), 10, ["a"]),  # at least one place is everybody's
        ({Share("a", 1000): 9, Share("b", 1): 1}, Share("b", 1), 10, []),
        ({Share("a", 1000): 9, Share("b", 1): 1}, Share("a", 1000), 10, []),
        ({Share("a", 30): 8, Share("b", 10): 2}, Share("b", 10), 10, []),
        ({Share("a", 10): 8, Share("b", 30): 2}, Share("b", 30), 10, ["a"]),
    ],
)
def test_who_makes_way_in_a_full_queue(held: dict[Share, int], asking: Share, places: int, over: list[str]) -> None:
    assert [share.key for share in over_their_share(held, asking, places)] == over


@given(st.lists(st.sampled_from([A, B, C, Share("d", 100), Share("e", 1)]), max_size=200), st.integers(1, 20))
def test_a_queue_comes_to_rest(arrivals: list[Share], places: int) -> None:
    """Whoever asks again and again: what one takes from another is never taken back."""
    held: dict[Share, int] = {}
    for asking in arrivals:
        if sum(held.values()) < places:
            held[asking] = held.get(asking, 0) + 1
        elif over := over_their_share(held, asking, places):
            assert held[over[0]] > 1
            held[over[0]] -= 1
            held[asking] = held.get(asking, 0) + 1
            assert over[0].key not in [share.key for share in over_their_share(held, over[0], places)]
    for share in list(held):
        for _ in range(places):
            if not (over := over_their_share(held, share, places)):
                break
            held[over[0]] -= 1
            held[share] += 1
        assert not over_their_share(held, share, places)
