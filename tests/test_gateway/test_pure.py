"""Decisions without a socket: choice, ejection, headers, ids, gzip negotiation, lines of the log."""

import asyncio

import pytest
from ams_gateway.broadcast import Broadcast
from ams_gateway.front.call import request_id
from ams_gateway.front.log import Record, console_line
from ams_gateway.front.responses import accepts_gzip
from ams_gateway.proxy.decisions import (
    Busy,
    Draining,
    NoHttp,
    PodEnded,
    ResponseCut,
    StaleConnection,
    Unreachable,
    UpstreamError,
    busy_pause_seconds,
    choose_backend,
    ejection_seconds,
    may_send_again,
    pause_seconds,
)
from ams_gateway.proxy.headers import named_by_connection, request_head
from ams_gateway.registry.port import Backend
from ams_gateway.registry.static import InvalidBackend, parse_backends
from hypothesis import given
from hypothesis import strategies as st


def backend(name: str, in_flight: int = 0, ejected_until: float = 0.0) -> Backend:
    return Backend(id=name, address="http://a", in_flight=in_flight, ejected_until=ejected_until)


CHOICES = [
    ("none there", [], (), 0.0, None),
    ("one there, whatever it did", [backend("a", 9, 100.0)], ("a",), 0.0, "a"),
    ("fewest in flight", [backend("a", 2), backend("b", 1), backend("c", 3)], (), 0.0, "b"),
    ("chance among equals, low", [backend("a"), backend("b", 1), backend("c")], (), 0.0, "a"),
    ("chance among equals, high", [backend("a"), backend("b", 1), backend("c")], (), 0.999, "c"),
    ("not one left out", [backend("a", 0, 60.0), backend("b", 5)], (), 0.0, "b"),
    ("one whose time is over", [backend("a", 0, 50.0), backend("b", 5)], (), 0.0, "a"),
    ("not one tried before", [backend("a"), backend("b", 5)], ("a",), 0.0, "b"),
    ("tried before rather than left out", [backend("a", 3), backend("b", 0, 60.0)], ("a",), 0.0, "a"),
    ("all left out", [backend("a", 1, 60.0), backend("b", 0, 60.0)], (), 0.0, "b"),
    ("all tried", [backend("a", 1), backend("b", 0)], ("a", "b"), 0.0, "b"),
]


@pytest.mark.parametrize(
    ("name", "backends", "tried", "draw", "expected"), CHOICES, ids=lambda v: v if type(v) is str else ""
)
def test_choose(name: str, backends: list[Backend], tried: tuple[str, ...], draw: float, expected: str | None) -> None:
    chosen = choose_backend(backends, tried, 50.0, draw)
    assert (chosen.id if chosen else None) == expected


loads = st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.booleans()), min_size=1, max_size=8)


@given(loads, st.floats(0, 1, exclude_max=True))
def test_choose_never_refuses_and_never_overloads(given_loads: list[tuple[int, bool, bool]], draw: float) -> None:
    backends = [backend(str(i), load, 60.0 if out else 0.0) for i, (load, out, _) in enumerate(given_loads)]
    tried = [str(i) for i, (_, _, was) in enumerate(given_loads) if was]
    chosen = choose_backend(backends, tried, 50.0, draw)
    assert chosen is not None
    best = [b for b in backends if b.ejected_until <= 50 and b.id not in tried]
    if best:
        assert chosen in best
        assert chosen.in_flight == min(b.in_flight for b in best)


def test_ejection_grows_from_the_third_failure_on_to_a_minute() -> None:
    assert [ejection_seconds(n) for n in (0, 1, 2, 3, 4, 5, 8, 9, 10, 10_000)] == [0, 0, 0, 1, 2, 4, 32, 60, 60, 60]


# What may be sent once more of a body that is here completely, and of one that streams through.
SENT_AGAIN = [
    (Unreachable, True, True),
    (StaleConnection, True, False),
    (Draining, True, False),
    (Busy, True, False),
    (PodEnded, True, False),
    (NoHttp, False, False),
    (ResponseCut, False, False),
]


@pytest.mark.parametrize(("failure", "whole", "streamed"), SENT_AGAIN, ids=lambda value: getattr(value, "__name__", ""))
def test_only_what_has_no_answer_yet_is_sent_again(failure: type[UpstreamError], whole: bool, streamed: bool) -> None:
    ends = int(failure.ended)
    assert [may_send_again(failure, 1, ends, replayable=replayable) for replayable in (True, False)] == [
        whole,
        streamed,
    ]


def test_what_two_pods_ended_over_is_not_sent_to_a_third() -> None:
    assert not may_send_again(PodEnded, 2, 2, replayable=True)
    assert not may_send_again(StaleConnection, 1, 2, replayable=True)


def test_a_request_is_sent_five_times_at_most_with_longer_and_longer_pauses() -> None:
    assert [may_send_again(Unreachable, sends, 0, replayable=True) for sends in (1, 4, 5)] == [True, True, False]
    assert [pause_seconds(sends) for sends in (1, 2, 3, 4)] == [0.05, 0.1, 0.2, 0.4]
    assert [busy_pause_seconds(refusals) for refusals in (1, 2, 3, 4, 5, 10_000)] == [0.1, 0.2, 0.4, 0.5, 0.5, 0.5]


async def test_a_change_between_two_waits_is_not_lost() -> None:
    broadcast = Broadcast()
    version = broadcast.version
    waiting = [asyncio.create_task(broadcast.changed_since(version)) for _ in range(2)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    broadcast.notify()
    await asyncio.gather(*waiting)
    await broadcast.changed_since(version)  # returns at once: the change came after `version`
    await broadcast.changed_since(broadcast.version, 0.0)  # returns when the time is over


def test_request_head() -> None:
    head = request_head(
        "POST", "/generate", "pod:80",
        [(b"Content-Type", b"application/json"), (b"X-\xc3\xa9", b"\xff"), (b"Host", b"evil")],
        request_id="r", content_length=2, dropped=(),
    )  # fmt: skip
    assert head == (
        b"POST /generate HTTP/1.1\r\nHost: pod:80\r\nX-Request-Id: r\r\nContent-Length: 2\r\n"
        b"X-AMS-Key-Id: anonymous\r\nX-AMS-Weight: 10\r\nContent-Type: application/json\r\nX-\xc3\xa9: \xff\r\n\r\n"
    )


def test_request_head_without_a_type() -> None:
    head = request_head("POST", "/v1", "h", [(b"Transfer-Encoding", b"chunked")], request_id="r", content_length=3)
    assert head.startswith(b"POST /v1 HTTP/1.1\r\nHost: h\r\nX-Request-Id: r\r\nContent-Length: 3\r\n")
    assert head.endswith(b"\r\nContent-Type: application/json\r\n\r\n")


@pytest.mark.parametrize(
    ("connection", "names"),
    [(None, set()), ("close", set()), ("Keep-Alive, X-A ,te", {b"x-a", b"te"}), ("", set())],
)
def test_named_by_connection(connection: str | None, names: set[bytes]) -> None:
    assert named_by_connection(connection) == names


@pytest.mark.parametrize(
    ("accept", "expected"),
    [("", False), ("gzip", True), ("deflate, GZip ; q=0.3", True), ("gzip;q=0", False), ("gzip; q=0.000", False),
     ("gzip;q=1.0", True), ("identity", False), ("*", False)],
)  # fmt: skip
def test_accepts_gzip(accept: str, expected: bool) -> None:
    assert accepts_gzip(accept) is expected


def test_request_ids() -> None:
    assert request_id("abc-1.2:3/4=5+6@7_8") == "abc-1.2:3/4=5+6@7_8"
    made = {request_id(given) for given in (None, "", "a b", "a\n", "x" * 129, "ä")}
    assert len(made) == 6
    assert all(len(name) == 24 and name.isalnum() for name in made)


def test_console_line_keeps_to_one_line() -> None:
    record = Record(
        time="2026-01-02T03:04:05.678Z", id="abc", method="POST", path="/generate/m\x1b[31m\n", code=200, seconds=1.5,
        first_byte_seconds=0.25, held_seconds=1.0, prompt_tokens=3, completion_tokens=4, pod="m-0", retries=1,
    )  # fmt: skip
    assert console_line(record) == (
        "03:04:05.678 200 POST /generate/m\\x1b[31m\\n 1.500s first 0.250s held 1.000s 3+4 tokens retries 1 pod m-0"
        " id abc\n"
    )


def test_backends_of_the_command_line() -> None:
    given = ["Qwen_VL=http://a:1", "qwen-vl=unix:///b", "m=http://[::1]:9"]
    assert parse_backends(given) == {"qwen-vl": ["http://a:1", "unix:///b"], "m": ["http://[::1]:9"]}


@pytest.mark.parametrize("given", ["m", "m=", "=http://a", "m=https://a", "m=http://a/path", "m=unix://", "m=a:80"])
def test_wrong_backends_of_the_command_line(given: str) -> None:
    with pytest.raises(InvalidBackend, match="expected"):
        parse_backends([given])
