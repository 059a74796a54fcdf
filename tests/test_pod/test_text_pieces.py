"""Thinking blocks and stop strings, however the text is cut into pieces."""

import itertools

import pytest
from ams_pod.serve.stops import StopStrings
from ams_pod.serve.thinking import ThinkSplitter
from hypothesis import given
from hypothesis import strategies as st


def split(pieces, inside=False):
    splitter = ThinkSplitter(inside)
    deltas = [splitter.push(piece) for piece in pieces]
    deltas.append(splitter.finish())
    return "".join(d.content for d in deltas), "".join(d.thinking for d in deltas), splitter.thinking


def pieces_of(text, cuts):
    edges = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[a:b] for a, b in itertools.pairwise(edges)]


CASES = [
    # text, template opened the block, content, thinking, ended inside the block
    ("Paris.", False, "Paris.", "", False),
    ("<think>hm, France</think>\n\nParis.", False, "Paris.", "hm, France", False),
    ("\n<think>\nhm\n</think>Paris.", False, "Paris.", "hm\n", False),
    ("hm</think>\n\nParis.", True, "Paris.", "hm", False),
    ("still thinking", True, "", "still thinking", True),
    ("<think>still thinking </thi", False, "", "still thinking </thi", True),
    ("1 < 2 and <b>", False, "1 < 2 and <b>", "", False),
    ("<thin air", False, "<thin air", "", False),
    ("<think></think>Paris.", False, "Paris.", "", False),
    ("Say <think>no</think>.", False, "Say <think>no</think>.", "", False),
    ("<think>a</think>b</think>c", False, "b</think>c", "a", False),
]


@pytest.mark.parametrize(("text", "inside", "content", "thinking", "unfinished"), CASES)
@given(cuts=st.lists(st.integers(0, 100), max_size=12))
def test_thinking_is_split_however_it_arrives(text, inside, content, thinking, unfinished, cuts):
    assert split(pieces_of(text, cuts), inside) == (content, thinking, unfinished)


def cut_at_stop(text, stops):
    """The text before the stop string that is complete first, of those the one that began first."""
    for end in range(len(text) + 1):
        if complete := [stop for stop in stops if text[:end].endswith(stop)]:
            return text[: end - max(map(len, complete))]
    return text


@given(
    text=st.text("abcX\n", max_size=40),
    stops=st.lists(st.text("abcX\n", min_size=1, max_size=4), max_size=3),
    cuts=st.lists(st.integers(0, 40), max_size=12),
)
def test_no_part_of_a_stop_string_gets_out(text, stops, cuts):
    machine = StopStrings(stops)
    out = ""
    for piece in pieces_of(text, cuts):
        out += machine.push(piece)
        assert cut_at_stop(text, stops).startswith(out)
        if machine.stopped:
            break
    out += machine.finish()
    assert out == cut_at_stop(text, stops)
    assert machine.stopped == any(stop in text for stop in stops)
