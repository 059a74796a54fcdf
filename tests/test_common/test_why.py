"""Causes from recorded facts: what takes whose time, and that nothing counts twice."""

from typing import Any

import msgspec
import pytest
from ams_common.lifecycle import Phase
from ams_common.machine_load import MachineSample, between, parse_cpu_stat, parse_pressure, parse_schedstat, parse_swap
from ams_common.outside import InvalidJson, read_json
from ams_common.progress import Download
from ams_common.reasons import ROWS as REASONS
from ams_common.timeline import (
    MOST_INTERVALS,
    Beside,
    Interval,
    Ring,
    Timeline,
    Track,
    bounded,
    interval,
    intervals_of,
)
from ams_common.why.causes import ROWS, CauseCode
from ams_common.why.model import explain_model
from ams_common.why.parts import divide
from ams_common.why.request import RequestRecord, explain_request
from ams_common.why.scheduling import NodeOffer, node_accounts, scheduler_says
from ams_common.why.story import Decision, ModelAccount, PodAccount
from ams_common.why.wording import duration

GPU = "0/3 nodes are available: 1 node(s) had untolerated taint {gpu: true}, 2 Insufficient nvidia.com/gpu."
MEMORY = (
    "0/2 nodes are available: 1 Insufficient cpu, 2 Insufficient memory. preemption: 0/2 nodes are available: "
    "2 No preemption victims found for incoming pod."
)


def gateway(*intervals: Interval, **fields: Any) -> Timeline:
    seconds = max((each.start + each.seconds for each in intervals), default=0.001)
    values = {"component": "gateway", "id": "r", "started": 1000.0, "seconds": seconds, "code": 200} | fields
    return Timeline(intervals=intervals, **values)


def sent(seconds: float, **fields: Any) -> Timeline:
    return gateway(interval("body", 0, 0.001), interval("send", 0.001, seconds), **fields)


def pod(*intervals: tuple[str, float], beside: tuple[Beside, ...] = (), key: str = "k-me", **facts: Any) -> Timeline:
    at, found = 0.0, []
    for name, seconds in intervals:
        found.append(interval(name, at, seconds))
        at += seconds
    return Timeline(
        component="pod", id="r", started=1000.0, seconds=at, key=key, code=200, intervals=tuple(found), beside=beside,
        facts=facts,
    )  # fmt: skip


def first(gateway: Timeline, at_pod: Timeline | None = None, **record: Any) -> str:
    return explain_request(RequestRecord(gateway, at_pod, **record))[0].code


OTHERS = Beside(key="k-2", stage="prompt", prompt_tokens=40_000, prompt_seconds=8.0)
WHILE_ANSWERED = Beside(key="k-2", stage="answer", prompt_tokens=40_000, prompt_seconds=6.0)
OWN = Beside(key="k-me", stage="prompt", own=True, prompt_tokens=10_030, prompt_seconds=5.0)

POD_CASES: dict[str, tuple[Timeline, str]] = {
    "neighbour": (pod(("others", 8.0), ("reading", 1.0), ("decode", 2.0), beside=(OTHERS,)), "neighbour-prompt"),
    "beside its own": (pod(("reading", 9.0), ("decode", 0.5), beside=(OTHERS,)), "neighbour-prompt"),
    "while it answers": (pod(("reading", 0.1), ("decode", 7.0), beside=(WHILE_ANSWERED,)), "neighbour-prompt"),
    "own key": (pod(("own-key", 4.0), ("reading", 1.0), beside=(OWN,), prompt_tokens=30), "own-key-busy"),
    "no keys": (pod(("own-key", 4.0), beside=(OWN,), key="anonymous", prompt_tokens=30), "neighbour-prompt"),
    "slot": (pod(("slot", 5.0), ("decode", 2.0)), "batch-full"),
    "towers": (pod(("towers", 5.0), ("decode", 2.0)), "neighbour-media"),
    "own media": (pod(("media-towers", 5.0), ("decode", 2.0), media=3), "own-media"),
    "decoding": (pod(("media", 5.0), ("decode", 2.0), media=1), "media-decode"),
    "pool": (pod(("pool", 5.0), ("decode", 2.0)), "decoders-busy"),
    "long prompt": (pod(("reading", 5.0), ("decode", 2.0), prompt_tokens=90_000), "long-prompt"),
    "long answer": (pod(("reading", 1.0), ("decode", 20.0), completion_tokens=900), "long-answer"),
    "another engine": (pod(("unsaid", 5.0), ("decode", 1.0)), "long-prompt"),
    "ladder": (pod(("reading", 1.0), ("decode", 9.0), rungs="alone, cpu", ladder_seconds=9.5), "memory-ladder"),
    "throttled": (pod(("reading", 1.0), ("decode", 9.0), throttled_seconds=7.0, periods=100), "cpu-throttled"),
    "starved": (pod(("reading", 1.0), ("decode", 9.0), starved_seconds=7.0, load_average=9.0), "cpu-starved"),
    "throttled threads wait too": (
        pod(("decode", 10.0), throttled_seconds=6.0, starved_seconds=6.5),
        "cpu-throttled",
    ),
    "stopped": (pod(("decode", 9.0), stopped_seconds=8.0), "pod-stopped"),
    "memory": (pod(("decode", 9.0), memory_stall_seconds=8.0), "memory-pressure"),
    "set aside": (pod(("decode", 9.0), set_aside=2, longest_gap_seconds=7.0), "set-aside"),
    "slow client": (pod(("decode", 1.0), ("writing", 9.0)), "slow-client"),
}


@pytest.mark.parametrize("case", POD_CASES)
def test_what_a_pod_recorded(case: str) -> None:
    at_pod, expected = POD_CASES[case]
    asked = sent(at_pod.seconds)
    causes = explain_request(RequestRecord(asked, at_pod))
    assert causes[0].code == expected
    assert sum(part.seconds for part in divide(asked, at_pod)) == pytest.approx(asked.seconds, abs=0.01)
    assert causes[0].help


def test_the_machine_takes_what_it_lengthened_and_no_more() -> None:
    parts = {part.code: part.seconds for part in divide(sent(10.0), pod(("decode", 10.0), starved_seconds=99.0))}
    assert parts[CauseCode.CPU_STARVED] == pytest.approx(10.0)
    assert CauseCode.LONG_ANSWER not in parts or parts[CauseCode.LONG_ANSWER] == pytest.approx(0.0)


def hold(phase: str, seconds: float, start: float = 0.0, **facts: Any) -> Interval:
    return interval("hold", start, seconds, {"phase": phase, **facts})


def attempt(reason: str, seconds: float, start: float = 0.0) -> Interval:
    return interval("attempt", start, seconds, {"pod": "m-0", "reason": reason})


GATEWAY_CASES: dict[str, tuple[Timeline, str]] = {
    "cold": (gateway(hold("importing", 3), hold("reading", 4, 3), interval("send", 7, 1)), "cold-start"),
    "download": (gateway(hold("downloading", 30), hold("reading", 4, 30), interval("send", 34, 1)), "download"),
    "node": (gateway(hold("scheduling", 30), code=503, error="model_loading"), "scheduling"),
    "crash": (gateway(attempt("no_answer", 1), hold("starting", 9, 1), interval("send", 10, 1)), "pod-ended"),
    "crash, then refused": (
        gateway(attempt("no_answer", 0.1), attempt("unreachable", 0.1, 0.1), hold("starting", 9, 0.2)),
        "pod-ended",
    ),
    "crash under a kept connection": (
        gateway(attempt("stale_connection", 0.3), attempt("unreachable", 0.1, 0.3), hold("starting", 9, 0.4)),
        "pod-ended",
    ),
    "unreachable": (gateway(attempt("unreachable", 5), interval("send", 5, 1)), "pod-unreachable"),
    "draining": (gateway(attempt("draining", 0.1), interval("pause", 0.1, 2)), "pod-draining"),
    "place": (gateway(interval("place", 0, 5), interval("send", 5, 1)), "queue-full"),
    "upload": (gateway(interval("body", 0, 20), interval("send", 20, 1)), "slow-upload"),
    "redis": (gateway(interval("limits", 0, 0.3), interval("send", 0.3, 0.1)), "redis-slow"),
    "keys": (gateway(interval("auth", 0, 2), interval("send", 2, 0.1)), "keys-slow"),
    "busy gateway": (sent(3.0, facts={"late_seconds": 2.9}), "gateway-busy"),
    "silent pod": (sent(3.0), "pod-silent"),
    "client left": (gateway(hold("reading", 9), code=499), "cold-start"),
    "client left at once": (gateway(code=499), "client-left"),
    "fast": (gateway(), "nothing"),
}


@pytest.mark.parametrize("case", GATEWAY_CASES)
def test_what_the_gateway_recorded(case: str) -> None:
    asked, expected = GATEWAY_CASES[case]
    assert first(asked) == expected


@pytest.mark.parametrize(
    ("code", "error", "facts", "expected"),
    [
        (401, "invalid_key", {}, "key-refused"),
        (403, "model_not_allowed", {}, "key-refused"),
        (429, "rate_limited", {"limit": "requests"}, "request-rate"),
        (429, "rate_limited", {"limit": "tokens"}, "token-rate"),
        (429, "rate_limited", {"limit": "concurrent"}, "concurrency"),
        (429, "token_limit", {"limit": "month"}, "budget"),
        (429, "queue_full", {}, "queue-full"),
        (429, "", {"pod_error": "queue_full"}, "queue-full"),
        (503, "model_failed", {"reason": "GatedModel"}, "GatedModel"),
        (503, "suspended", {}, "suspended"),
        (503, "no_backend", {}, "pod-unreachable"),
        (502, "backend_failed", {}, "pod-ended"),
        (503, "draining", {}, "pod-draining"),
        (503, "overloaded", {}, "overloaded"),
        (500, "internal_error", {}, "internal"),
        (504, "timeout", {}, "timed-out"),
        (404, "model_not_found", {}, "model-unknown"),
        (400, "invalid_json", {}, "bad-request"),
    ],
)  # fmt: skip
def test_errors_have_their_cause(code: int, error: str, facts: dict[str, Any], expected: str) -> None:
    asked = gateway(code=code, error=error, message="It says why.", facts=facts)
    cause = explain_request(RequestRecord(asked))[0]
    assert cause.code == expected
    assert cause.help


def test_an_error_of_a_pod_is_told_by_the_pod() -> None:
    refused = Timeline(
        component="pod", id="r", started=1000.0, seconds=0.01, code=503, error="insufficient_memory", message="No room."
    )
    cause = explain_request(RequestRecord(sent(0.01, code=503), refused))[0]
    assert (cause.code, "No room" in cause.sentence) == ("memory-ladder", True)


@pytest.mark.parametrize("reason", REASONS)
def test_each_reason_is_its_own_cause(reason: str) -> None:
    model = ModelAccount(name="m", phase=Phase.FAILED, reason=reason, message="Thus.")
    cause = explain_model(model)[0]
    assert cause.code == reason or REASONS[reason].phase is Phase.READY  # type: ignore[index]
    assert cause.help


@pytest.mark.parametrize(("reason", "message"), [("InsufficientGPU", GPU), ("Unschedulable", MEMORY)])
def test_which_node_lacks_what(reason: str, message: str) -> None:
    offers = [
        NodeOffer("a", {"memory": "8Gi", "cpu": "4"}, {"memory": 6e9, "cpu": 1.0}),
        NodeOffer("b", {"memory": "64Gi", "cpu": "4"}, {}, taints=("gpu=true:NoSchedule",)),
        NodeOffer("c", {"memory": "64Gi", "cpu": "4"}, {}, unschedulable=True, selected=False),
        NodeOffer("d", {"memory": "64Gi", "cpu": "4", "nvidia.com/gpu": "1"}, {"nvidia.com/gpu": 1.0}),
    ]
    nodes = node_accounts(offers, {"memory": "16Gi", "cpu": "2", "nvidia.com/gpu": "1"})
    model = ModelAccount(
        name="m", phase=Phase.SCHEDULING, reason=reason, message=f"No node takes it: {message}", nodes=nodes,
        decisions=[Decision(time=1.0, kind="scale", sentence="0 to 1 replicas")],
    )  # fmt: skip
    cause = explain_model(model)[0]
    assert cause.code == reason
    evidence = "\n".join(cause.evidence)
    for words in (
        "the scheduler: ",
        "node a: 16.0 GiB of memory asked for, 2.4 GiB free of 8.0 GiB",
        "node b: its taint",
        "node c: it is cordoned",
        "node d: 1 of nvidia.com/gpu asked for, 0 free of 1",
        "0 to 1 replicas",
    ):
        assert words in evidence


def test_what_the_scheduler_says() -> None:
    assert scheduler_says(GPU) == ["1 node(s) had untolerated taint {gpu: true}", "2 Insufficient nvidia.com/gpu"]
    assert scheduler_says(MEMORY) == ["1 Insufficient cpu", "2 Insufficient memory"]
    assert scheduler_says("anything else") == []


def test_a_model_on_its_way_and_one_that_is_slow() -> None:
    download = Download(1 << 20, 10 << 20, 1000.0, 9000.0)
    on_its_way = explain_model(ModelAccount(name="m", phase=Phase.DOWNLOADING, download=download))[0]
    assert (on_its_way.code, "1 MB of 10 MB" in "".join(on_its_way.evidence)) == ("download", True)
    ready = ModelAccount(name="m", phase=Phase.READY, replicas=1, ready_replicas=1)
    assert explain_model(ready)[0].code == "nothing"
    slow = [RequestRecord(sent(9.0), POD_CASES["slot"][0]) for _ in range(3)] + [RequestRecord(gateway(code=401))]
    assert [cause.code for cause in explain_model(ready, slow)][:1] == ["batch-full"]
    left_out = PodAccount(pod="m-0", failures=4, ejected_seconds=8.0)
    assert explain_model(msgspec.structs.replace(ready, pods=[left_out]))[0].code == "pod-unreachable"
    throttled = PodAccount(pod="m-0", machine={"throttled_seconds": 40.0})
    assert explain_model(msgspec.structs.replace(ready, pods=[throttled]))[0].code == "cpu-throttled"
    busy = PodAccount(pod="m-0", running=4, places=4, queued=8, queue_places=8)
    assert explain_model(msgspec.structs.replace(ready, pods=[busy]))[0].code == "queue-full"


def test_every_cause_has_a_row_that_says_what_to_do() -> None:
    assert set(ROWS) == set(CauseCode)
    assert all(row.title and row.help.endswith(".") for row in ROWS.values())


# what is noted, and kept


def test_a_track_is_bounded_and_loses_no_time() -> None:
    track = Track()
    for number in range(1000):
        track.note("attempt", float(number), number + 1.0, {"n": number})
    made = intervals_of(track, 0.0)
    assert len(made) == MOST_INTERVALS
    assert sum(each.seconds for each in made) == 1000.0
    track.note("other", 0.0, 1.0)
    assert len(intervals_of(track, 0.0)) == MOST_INTERVALS


def test_facts_of_strangers_are_cut_to_size() -> None:
    hostile = {"text": "x\n\x1b[2J" * 1000, "nan": float("nan"), "inf": float("inf"), "int": 10**30}
    made = bounded(hostile | {str(number): number for number in range(100)})
    assert len(made) <= 40
    assert str(made["text"]).isprintable()
    assert len(str(made["text"])) <= 300
    msgspec.json.decode(msgspec.json.encode(Timeline(component="pod", id="i", started=0, seconds=1, facts=made)))


@pytest.mark.parametrize(
    "field",
    [b'"id":"' + b"x" * 129 + b'"', b'"seconds":-1', b'"seconds":1e300', b'"intervals":[' + b"{}," * 70 + b"{}]",
     b'"beside":[{"key":"' + b"k" * 200 + b'"}]', b'"facts":{"a":["list"]}', b'"code":"200"'],
)  # fmt: skip
def test_a_hostile_pods_timeline_is_refused(field: bytes) -> None:
    base = b'{"component":"pod","started":0,"seconds":1,"id":"a",' + field + b"}"
    with pytest.raises(InvalidJson):
        read_json(base, Timeline)


class Entry(msgspec.Struct, gc=False):
    id: str
    at: float
    size: int = 10


def test_a_ring_is_bounded_in_number_and_bytes() -> None:
    ring: Ring[Entry] = Ring(3, 100)
    for number in range(5):
        ring.add(Entry(str(number), float(number)))
    assert [entry.id for entry in ring.newest_first()] == ["4", "3", "2"]
    assert (ring.reaches_back_to, ring.forgotten, ring.find("1")) == (2.0, True, None)
    ring.add(Entry("large", 9.0, 1000))
    assert [entry.id for entry in ring.newest_first()] == ["large"]
    ring.add(Entry("large", 10.0, 1))
    found = ring.find("large")
    assert found is not None
    assert found.at == 10.0


# what the kernel says


def test_what_the_kernel_says() -> None:
    two = "usage_usec 9\nnr_periods 100\nnr_throttled 40\nthrottled_usec 2500000\n"
    assert parse_cpu_stat(two) == (2.5, 40, 100)
    assert parse_cpu_stat("nr_periods 100\nnr_throttled 40\nthrottled_time 2500000000\n") == (2.5, 40, 100)
    assert parse_schedstat("39849 1500000000 2\n") == 1.5
    assert parse_pressure("some avg10=0.00 avg60=0.00 total=1500000\nfull avg10=0.00 total=7\n") == 1.5
    assert parse_swap("Name:\tx\nVmSwap:\t   12 kB\n") == 12 * 1024
    for parse in (parse_schedstat, parse_pressure, parse_swap):
        assert parse("") is None
        assert parse("\x00garbage some total=x VmSwap:") is None


def test_the_difference_of_two_samples() -> None:
    before = MachineSample(at=0.0, throttled_seconds=1.0, throttled_periods=1, periods=5, delays={"1": 1.0, "2": 1.0})
    after = MachineSample(
        at=10.0, cpu_seconds=3.0, throttled_seconds=4.0, throttled_periods=31, periods=105,
        delays={"1": 2.0, "2": 6.0, "new": 99.0}, stopped_seconds=2.0,
    )  # fmt: skip
    facts = between(before, after, 2)
    assert facts == {
        "cpus": 2, "cpu_seconds": 3.0, "throttled_seconds": 3.0, "throttled_periods": 30, "periods": 100,
        "starved_seconds": 5.0, "stopped_seconds": 2.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0, "0 ms"), (0.034, "34 ms"), (0.0999, "0.1 s"), (0.34, "0.34 s"), (1.25, "1.2 s"), (12.3, "12 s"),
        (192, "3 min 12 s"), (9000, "2 h 30 min"),
    ],
)  # fmt: skip
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words
