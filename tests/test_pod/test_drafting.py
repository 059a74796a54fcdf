"""What an answer may go on with, and when it pays to verify it: pure decisions."""

import random

import pytest
from ams_pod.engines.builtin.scheduler import prompt_lookup
from ams_pod.engines.builtin.scheduler.drafting import (
    NOT_COPYING,
    Acceptance,
    Balance,
    Candidate,
    Copying,
    draft_lengths,
)
from ams_pod.engines.builtin.scheduler.prompt_lookup import REPLACED, Guess, PromptLookup
from ams_pod.engines.builtin.scheduler.step_times import StepTimes
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("tokens", "matched", "proposed"),
    [
        ([], 0, []),
        ([1], 0, []),
        ([1, 2, 3, 4], 0, []),
        ([1, 2, 3, 4, 9, 1, 2], 2, [3, 4, 9, 1, 2]),
        ([1, 2, 3, 4, 9, 1, 2, 3], 3, [4, 9, 1, 2, 3]),
        ([7, 1, 2, 5, 8, 1, 2, 6, 9, 1, 2], 2, [6, 9, 1, 2, 6]),  # the last time that it came
        ([7, 1, 2, 5, 8, 1, 2, 6, 7, 1, 2], 3, [5, 8, 1, 2, 6]),  # three tokens tell more than two
        ([4, 4, 4], 2, [4, 4, 4, 4, 4]),  # what reaches the end goes round
        ([5, 6, 5, 6], 2, [5, 6, 5, 6, 5]),
    ],
)
def test_proposals(tokens, matched, proposed):
    lookup = PromptLookup(tokens)
    assert (lookup.matched, lookup.propose(5)) == (matched, proposed)


def test_the_place_is_followed_while_it_agrees():
    text = [*range(100, 120)]
    lookup = PromptLookup([*text, 50, 100, 101, 77, 50])
    told = [lookup.append(token) for token in [100, 101, 102, 103, 99, 106, 107, 108]]
    assert told[:3] == [None, Guess(2, True), Guess(3, False)]  # 77 had come there last
    assert told[3:5] == [Guess(3, True), Guess(4, False)]
    assert told[5:] == [Guess(REPLACED, False), None, Guess(2, True)]
    assert lookup.propose(3) == [109, 110, 111]


def test_one_token_may_have_been_replaced():
    lookup = PromptLookup([*range(100, 120), 50])
    for token in (100, 101, 102, 103, 99):
        lookup.append(token)
    assert (lookup.matched, lookup.propose(3)) == (REPLACED, [105, 106, 107])
    assert lookup.append(105) == Guess(REPLACED, True)
    assert lookup.append(106) == Guess(2, True)


def brute_force(tokens, most):
    """The guess without an index: where the last three, or two, tokens stood before."""
    for length in (3, 2):
        if len(tokens) < length:
            continue
        for start in range(len(tokens) - length - 1, -1, -1):
            if tokens[start : start + length] == tokens[-length:]:
                taken = []
                for at in range(most):
                    place = start + length + at
                    taken.append(tokens[place] if place < len(tokens) else taken[place - len(tokens)])
                return length, taken
    return 0, []


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(1, 6))
def test_the_index_finds_what_a_search_finds(tokens, most):
    lookup = PromptLookup(tokens)
    assert (lookup.matched, lookup.propose(most)) == brute_force(tokens, most)


@given(st.lists(st.integers(0, 2), max_size=30), st.lists(st.integers(0, 2), max_size=30))
def test_what_is_followed_did_come_behind_as_many_tokens_as_it_says(prompt, answer):
    lookup, tokens, replaced = PromptLookup(prompt), list(prompt), False
    guess = None
    for token in answer:
        proposed, matched = lookup.propose(1), lookup.matched
        replaced = matched == REPLACED or (replaced and guess is not None and guess.right)
        if agree := matched - replaced:
            last = tokens[-agree:]
            places = [at for at in range(len(tokens) - agree) if tokens[at : at + agree] == last]
            assert any(tokens[at + agree] == proposed[0] for at in places)
        guess = lookup.append(token)
        assert guess == (Guess(matched, proposed[0] == token) if proposed else None)
        tokens.append(token)


def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(prompt_lookup, "_MOST_INDEXED", 50)
    monkeypatch.setattr(prompt_lookup, "_MOST_KEPT", 100)
    chance = random.Random(1)
    text = [chance.randrange(1000) for _ in range(70)]
    lookup = PromptLookup(text)
    assert len(lookup._tokens) == 50
    for _ in range(20):
        for token in text[-40:]:
            lookup.append(token)
            assert len(lookup._tokens) <= 100
            assert len(lookup._behind) <= 200
    assert lookup.propose(3) == text[-40:][:3]


def test_chances_are_those_that_the_request_shows():
    acceptance = Acceptance()
    assert acceptance.chance(2) < acceptance.chance(3) < acceptance.chance(6) < acceptance.chance(20)
    for _ in range(60):
        acceptance.note(Guess(12, False))
        acceptance.note(Guess(2, True))
    assert acceptance.chance(20) < 0.15
    assert acceptance.chance(2) > 0.85
    for _ in range(60):
        acceptance.note(Guess(12, True))
    assert acceptance.chance(20) > 0.75  # a request may change


def nearly_free(drafted: int) -> float:
    return 1 + 0.02 * drafted


@pytest.mark.parametrize(
    ("chances", "time", "lengths"),
    [
        ([[]], nearly_free, [0]),
        ([[0.9, 0.8, 0.7]], nearly_free, [3]),
        ([[0.9, 0.5, 0.01]], nearly_free, [2]),
        ([[0.03, 0.0]], nearly_free, [0]),  # not worth it
        ([[0.9, 0.8]], lambda drafted: 1 + drafted, [0]),  # each costs a step
        ([[0.9, 0.8, 0.7, 0.6]], lambda drafted: 1.02 if drafted <= 2 else 1.6, [2]),  # a step in the costs
        ([[0.9] * 4, []], nearly_free, [4, 0]),
        ([[0.9, 0.8], [0.95, 0.1, 0.1]], nearly_free, [2, 3]),
        ([[0.9, 0.8], [0.95, 0.04, 0.0]], nearly_free, [2, 1]),
        ([[0.99] * 15] * 4, lambda drafted: 1.0, [8, 8, 8, 8]),  # as many as a step may have
    ],
)
def test_as_many_are_drafted_as_pay(chances, time, lengths):
    assert draft_lengths([Candidate(each, 1.0) for each in chances], time) == lengths


def test_nobody_is_slowed_beyond_what_it_may_lose():
    copying, other = Candidate([0.99] * 15, 9.0), Candidate([], 0.101)
    assert draft_lengths([copying], nearly_free) == [15]
    assert draft_lengths([copying, other], nearly_free) == [5, 0]
    assert draft_lengths([copying, Candidate([], 0.0)], nearly_free) == [0, 0]


def test_a_request_loses_no_more_than_a_fiftieth_and_half_a_step():
    balance, time, steps = Balance(), 0.0, 1000
    for _ in range(steps):
        took = 1.3 if balance.slack >= 0.3 else 1.0  # nothing drafted is ever right
        balance.note(1, took)
        time += took
    assert steps * 1.015 < time <= steps * 1.021 + 0.5


def test_what_was_saved_long_ago_pays_for_little():
    balance = Balance()
    for _ in range(100):
        balance.note(8, 1.2)
    lost = 0.0
    while balance.slack >= 0.5:
        balance.note(1, 1.5)
        lost += 0.5
    assert lost < 12


def times_of(measured: dict[tuple[int, int], list[float]]) -> StepTimes:
    times = StepTimes()
    for (rows, drafted), seconds in measured.items():
        for each in (9.9, *seconds):  # the first of a kind is slower
            times.note(rows, drafted, each)
    return times


def test_nothing_is_known_before_plain_steps_were_measured():
    assert times_of({}).of(1) is None
    assert times_of({(1, 0): [0.1, 0.1]}).of(1) is None
    assert times_of({(2, 0): [0.1] * 3}).of(1) is None
    assert times_of({(1, 0): [0.1] * 3}).of(1)(0) == 1.0


def test_times_between_those_that_were_measured():
    time = times_of({(1, 0): [0.1] * 5, (1, 4): [0.12] * 3, (1, 8): [0.2] * 3}).of(1)
    assert [time(drafted) for drafted in (0, 2, 4, 6, 8, 12)] == pytest.approx([1, 1.1, 1.2, 1.6, 2.0, 2.5])
    assert times_of({(1, 0): [0.1] * 5}).of(1)(5) == pytest.approx(1.2)  # before any was measured


def test_noise_changes_nothing_and_a_step_with_drafts_is_never_taken_to_be_faster():
    time = times_of({(1, 0): [0.1, 0.1, 0.9, 0.1, 0.5, 0.1], (1, 3): [0.11, 0.11, 0.8, 0.11], (1, 6): [0.05] * 3}).of(1)
    assert time(3) == pytest.approx(1.1)
    assert time(6) == 1.0


def test_plain_steps_are_measured_again_and_old_times_forgotten():
    times = times_of({(1, 0): [0.1] * 5, (1, 4): [0.3] * 3})
    for _ in range(64):
        assert times.of(1) is None or times.of(1)(4) == pytest.approx(3.0)
        times.note(1, 4, 0.3)
    assert times.of(1) is None
    times.note(1, 0, 0.1)
    assert times.of(1)(4) == pytest.approx(3.0)
    for _ in range(401):
        times.note(1, 0, 0.1)
    assert times.of(1)(4) == pytest.approx(1.16)  # as if it had never been measured: it is tried again


STEP = 1.0


def simulate(prompt, answer, slope):
    """Time of an answer on a machine where a drafted token costs `slope` of a step, in plain steps a token."""
    copying, times = Copying(PromptLookup(prompt)), StepTimes()
    spent, made = 0.0, 0
    while made < len(answer):
        time = times.of(1)
        candidate = copying.candidate(len(answer) - made - 1)
        length = draft_lengths([candidate], time)[0] if time is not None else 0
        draft = copying.lookup.propose(length)
        right = 0
        while right < len(draft) and draft[right] == answer[made + right]:
            right += 1
        took = STEP + slope * length
        spent += took
        times.note(1, length, took)
        copying.balance.note(1 + right, took)
        for token in answer[made : made + right + 1]:
            copying.append(token)
        made += right + 1
    return spent / len(answer)


def ordinary(seed, length, words=300):
    """Text in which two words follow each other about as often as in English: some pairs come again and again."""
    chance, text, word = random.Random(seed), [], 0
    for _ in range(length):
        word = (word * 7 + int(chance.paretovariate(0.7))) % words
        text.append(word)
    return text


@pytest.mark.parametrize("slope", [0.01, 0.05, 0.2, 1.0])
def test_a_copy_with_edits_is_much_faster_and_other_text_hardly_slower(slope):
    prompt = random.Random(1).sample(range(10_000), 400)
    edited = [*prompt[:150], 10_001, *prompt[151:300], 10_002, *prompt[303:]]
    assert simulate(prompt, edited, slope) < {0.01: 0.2, 0.05: 0.25, 0.2: 0.5, 1.0: 1.02}[slope]
    for seed in range(5):
        text = ordinary(seed, 800)
        assert simulate(text[:400], text[400:], slope) <= 1.03


def test_a_row_that_does_not_copy_loses_no_more_beside_others():
    assert NOT_COPYING == 0.5
