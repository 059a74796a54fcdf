"""How slow a body may come, and what all unfinished bodies may take together: decided without any connection."""

import pytest
from ams_common.errors import ApiError
from ams_common.room import Pace, PaceLimits, Room

LIMITS = PaceLimits(silence_seconds=10.0, total_seconds=60.0, bytes_per_second=100.0)
BEGIN = 1000.0


def test_patience_is_the_silence_allowed_and_never_beyond_the_whole_time() -> None:
    pace = Pace(LIMITS, BEGIN)
    assert pace.patience(BEGIN) == 10.0
    assert pace.patience(BEGIN + 49.0) == 10.0
    assert pace.patience(BEGIN + 55.0) == 5.0
    assert pace.patience(BEGIN + 61.0) == 0.0


def test_a_body_as_fast_as_asked_goes_on() -> None:
    pace = Pace(LIMITS, BEGIN)
    for second in range(1, 50):
        pace.note(100, BEGIN + second)


def test_a_body_a_little_slower_is_ended_when_the_window_is_over() -> None:
    pace = Pace(LIMITS, BEGIN)
    pace.note(999, BEGIN + 9.9)  # the window isn't over
    with pytest.raises(ApiError, match="slower than 100 bytes a second") as caught:
        pace.note(0 + 1, BEGIN + 10.1)
    assert (caught.value.code, caught.value.details["limit"]) == ("request_timeout", 100.0)


def test_exactly_the_rate_is_enough() -> None:
    Pace(LIMITS, BEGIN).note(1000, BEGIN + 10.0)


def test_each_window_counts_for_itself() -> None:
    """What came fast at first doesn't pay for dripping afterwards."""
    pace = Pace(LIMITS, BEGIN)
    pace.note(1_000_000, BEGIN + 10.0)
    with pytest.raises(ApiError, match="slower than"):
        pace.note(999, BEGIN + 20.0)


def test_a_window_begins_where_the_last_one_ended() -> None:
    pace = Pace(LIMITS, BEGIN)
    pace.note(2_000, BEGIN + 12.0)
    pace.note(1, BEGIN + 21.0)  # nine seconds of the second
    with pytest.raises(ApiError, match="slower than"):
        pace.note(1, BEGIN + 22.0)


def test_the_end_of_a_body_is_never_too_slow() -> None:
    Pace(LIMITS, BEGIN).note(0, BEGIN + 30.0)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (10.0, "sent nothing of its body for 10 seconds"),
        (59.9, "sent nothing of its body for 10 seconds"),
        (59.995, "did not arrive within 60 seconds"),
        (60.0, "did not arrive within 60 seconds"),
        (70.0, "did not arrive within 60 seconds"),
    ],
)
def test_what_was_waited_for_in_vain_is_told(seconds: float, words: str) -> None:
    error = Pace(LIMITS, BEGIN).timed_out(BEGIN + seconds)
    assert (error.code, words in error.message) == ("request_timeout", True)


def test_bodies_share_the_memory_and_give_it_back() -> None:
    room = Room(1000, 5000)
    with room.share() as first, room.share() as second:
        first.keep(400, BEGIN)
        first.keep(600, BEGIN)  # of this body in all
        second.keep(400, BEGIN)
        assert room.in_memory == 1000
        with pytest.raises(ApiError, match="Too many bodies are being received") as caught:
            second.keep(401, BEGIN)
        assert (caught.value.code, caught.value.details["limit"], caught.value.retry_after) == ("overloaded", 1000, 5.0)
        first.keep(0, BEGIN)  # it moved into a file
        second.keep(900, BEGIN)
        assert room.in_memory == 900
    assert (room.in_memory, room.in_files) == (0, 0)


def test_a_body_that_leaves_memory_is_let_go_in_a_full_room() -> None:
    room = Room(1000, 5000)
    with room.share() as first, room.share() as second:
        with pytest.raises(ApiError):
            first.keep(1001, BEGIN)
        second.keep(0, BEGIN)


def test_files_have_a_room_of_their_own() -> None:
    room = Room(1000, 5000)
    with room.share() as first, room.share() as second:
        first.put_into_file(3000)
        second.put_into_file(2000)
        assert (room.in_files, room.in_memory) == (5000, 0)
        with pytest.raises(ApiError, match="Too many bodies are being received") as caught:
            second.put_into_file(1)
        assert (caught.value.code, caught.value.details["limit"]) == ("overloaded", 5000)
    assert room.in_files == 0


def test_a_body_that_stalls_makes_way_for_one_that_comes() -> None:
    room = Room(1000, 5000)
    left: list[str] = []
    with room.share() as oldest, room.share() as old, room.share() as new:
        oldest.leave = lambda: left.append("oldest")
        old.leave = lambda: left.append("old")
        oldest.keep(400, BEGIN)
        old.keep(400, BEGIN + 1.0)
        with pytest.raises(ApiError):
            new.keep(300, BEGIN + 1.9)
        new.keep(0, BEGIN + 1.9)
        new.keep(300, BEGIN + 2.0)
        assert (left, room.in_memory, oldest.ended, old.ended) == (["oldest"], 700, True, False)
        with pytest.raises(ApiError, match="Too many bodies") as caught:
            oldest.keep(401, BEGIN + 2.0)
        assert caught.value.code == "overloaded"
        new.keep(1000, BEGIN + 3.0)
        assert (left, room.in_memory) == (["oldest", "old"], 1000)
    assert room.in_memory == 0


def test_dripping_is_no_sign_of_life() -> None:
    room = Room(100_000, 0)
    with room.share() as drips, room.share() as comes, room.share() as new:
        for second in range(4):
            drips.keep(40_000 + second, BEGIN + second)
            comes.keep(20_000 * (second + 1) // 2, BEGIN + second)
        assert (drips.stalled_seconds(BEGIN + 3), comes.stalled_seconds(BEGIN + 3)) == (3.0, 1.0)
        new.keep(50_000, BEGIN + 3)
        assert (drips.ended, comes.ended) == (True, False)


def test_a_body_that_goes_into_a_file_is_alive() -> None:
    """What it has in memory falls and grows."""
    room = Room(100_000, 10**6)
    with room.share() as share:
        for second in range(3):
            share.keep(40_000, BEGIN + second)
            share.keep(0, BEGIN + second)
        assert share.stalled_seconds(BEGIN + 2) == 0.0


def test_a_share_that_fails_is_given_back() -> None:
    room = Room(1000, 5000)

    def fail() -> None:
        with room.share() as share:
            share.put_into_file(100)
            share.keep(2000, BEGIN)

    with pytest.raises(ApiError):
        fail()
    assert (room.in_memory, room.in_files) == (0, 0)
