"""A request's time divided by cause: what gateway and pod recorded, put side by side so that nothing counts twice."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from ams_common.keys import ANONYMOUS_ID
from ams_common.lifecycle import Phase
from ams_common.timeline import Beside, Interval, Timeline
from ams_common.why.causes import CauseCode
from ams_common.why.wording import count, duration, key_name, listed

_ENDED: Final = ("no_answer", "answer_cut")  # reasons of a failed attempt: the pod's process ended
_NOT_ENDED: Final = {
    "unreachable": CauseCode.POD_UNREACHABLE,
    "draining": CauseCode.POD_DRAINING,
    "stale_connection": CauseCode.ELSEWHERE,
    "no_http": CauseCode.POD_FAILED,
}
_BY_PHASE: Final = {
    Phase.DOWNLOADING: CauseCode.DOWNLOAD,
    Phase.SCHEDULING: CauseCode.SCHEDULING,
}
# Of what computes, or waits for computing: what the machine did to the process lengthened these.
_COMPUTED: Final = (
    CauseCode.LONG_ANSWER, CauseCode.LONG_PROMPT, CauseCode.NEIGHBOUR_PROMPT, CauseCode.OWN_KEY_BUSY,
    CauseCode.BATCH_FULL, CauseCode.NEIGHBOUR_MEDIA, CauseCode.OWN_MEDIA, CauseCode.MEDIA_DECODE,
    CauseCode.DECODERS_BUSY, CauseCode.MEMORY_LADDER, CauseCode.SET_ASIDE, CauseCode.ELSEWHERE,
)  # fmt: skip
_MACHINE: Final = (
    ("stopped_seconds", CauseCode.POD_STOPPED),
    ("throttled_seconds", CauseCode.CPU_THROTTLED),
    ("memory_stall_seconds", CauseCode.MEMORY_PRESSURE),
    ("starved_seconds", CauseCode.CPU_STARVED),
)
_LEAST_SECONDS = 0.05  # of what the machine did: less is what any machine does


@dataclass(slots=True)
class Part:
    """What one cause took of a request's time, and what tells so."""

    code: CauseCode
    seconds: float = 0.0
    evidence: list[str] = field(default_factory=list)


class Parts:
    """Parts by cause, added up."""

    def __init__(self) -> None:
        self._parts: dict[CauseCode, Part] = {}

    def add(self, code: CauseCode, seconds: float, *evidence: str) -> None:
        if seconds <= 0 and not evidence:
            return
        part = self._parts.setdefault(code, Part(code))
        part.seconds += max(0.0, seconds)
        part.evidence += [each for each in evidence if each and each not in part.evidence]

    def seconds(self, code: CauseCode) -> float:
        return self._parts[code].seconds if code in self._parts else 0.0

    def move(self, seconds: float, sources: Sequence[CauseCode], to: CauseCode, *evidence: str) -> None:
        """Up to so many seconds of `sources`, of each in proportion, are `to`'s instead."""
        there = {code: self._parts[code].seconds for code in sources if code in self._parts and code is not to}
        total = sum(there.values())
        moved = min(seconds, total)
        if moved <= 0:
            return
        for code, has in there.items():
            self._parts[code].seconds -= moved * has / total
        self.add(to, moved, *evidence)

    def largest_first(self) -> list[Part]:
        return sorted(self._parts.values(), key=lambda part: part.seconds, reverse=True)


def divide(gateway: Timeline, pod: Timeline | None, silent: str = "") -> list[Part]:
    """The request's time by cause, the largest part first. `silent` says why the pod's own record isn't there."""
    parts = Parts()
    _in_gateway(gateway, parts)
    if gateway.named("send") or gateway.named("answer"):
        _at_pod(gateway, pod, silent, parts)
    return [part for part in parts.largest_first() if part.seconds > 0 or part.evidence]


def _in_gateway(gateway: Timeline, parts: Parts) -> None:
    parts.add(CauseCode.KEYS_SLOW, gateway.total("auth"))
    body = gateway.total("body")
    parts.add(CauseCode.SLOW_UPLOAD, body, *_body_evidence(gateway, body))
    for limits in gateway.named("limits"):
        where = f"it was asked {limits.text('store')}" if limits.text("store") else ""
        parts.add(CauseCode.REDIS_SLOW, limits.seconds, where)
    blamed: CauseCode | None = None  # for what is waited for after it
    ended = _ended_pods(gateway)
    for each in gateway.intervals:
        if each.name == "attempt":
            blamed = CauseCode.POD_ENDED if each.text("pod") in ended else _attempt_cause(each)
            parts.add(blamed, each.seconds, _attempt_sentence(each))
        elif each.name == "pause":
            parts.add(blamed or CauseCode.ELSEWHERE, each.seconds)
        elif each.name == "place":
            parts.add(CauseCode.QUEUE_FULL, each.seconds, "the pod's queue was full, and the gateway asked again")
        elif each.name == "hold":
            after = blamed in (CauseCode.POD_ENDED, CauseCode.POD_UNREACHABLE)
            code = blamed if after and blamed is not None else hold_cause(each)
            parts.add(code, each.seconds, hold_sentence(each))
    left_out = [each.text("left_out") for each in gateway.named("choose") if each.text("left_out")]
    if left_out and (blamed is not None or gateway.named("hold")):
        parts.add(blamed or CauseCode.POD_UNREACHABLE, 0.0, f"left out for their failures: {left_out[-1]}")


def _body_evidence(gateway: Timeline, seconds: float) -> list[str]:
    size = gateway.number("body_bytes")
    return [f"{size:,.0f} bytes of body in {duration(seconds)}"] if size and seconds > 0.01 else []


def _ended_pods(gateway: Timeline) -> set[str]:
    """Pods that ended over the request: they said nothing more, or nobody answers where a connection just broke."""
    found, broken = set(), set()
    for each in gateway.named("attempt"):
        pod, reason = each.text("pod"), each.text("reason")
        if reason in _ENDED or (reason == "unreachable" and pod in broken):
            found.add(pod)
        elif reason == "stale_connection":
            broken.add(pod)
    return found


def _attempt_cause(attempt: Interval) -> CauseCode:
    reason = attempt.text("reason")
    return CauseCode.POD_ENDED if reason in _ENDED else _NOT_ENDED.get(reason, CauseCode.POD_UNREACHABLE)


def _attempt_sentence(attempt: Interval) -> str:
    said = f": {attempt.text('message')}" if attempt.text("message") else ""
    left_out = attempt.number("left_out_seconds")
    then = f"; it was left out for {duration(left_out)}" if left_out else ""
    pod, reason = attempt.text("pod") or "?", attempt.text("reason")
    return f"pod {pod} failed after {duration(attempt.seconds)} ({reason}){said}{then}"


def hold_cause(hold: Interval) -> CauseCode:
    """What a request waited for while its model wasn't ready, by the model's phase."""
    try:
        phase = Phase(hold.text("phase"))
    except ValueError:
        return CauseCode.COLD_START
    return _BY_PHASE.get(phase.stage, CauseCode.COLD_START)


def hold_sentence(hold: Interval) -> str:
    words = f"{duration(hold.seconds)} while the model was {hold.text('phase') or 'not ready'}"
    if done := hold.number("bytes_done"):
        total = hold.number("bytes_total")
        words += f", {done / 1e6:,.0f} MB" + (f" of {total / 1e6:,.0f} MB" if total else "") + " downloaded"
    if rate := hold.number("bytes_per_second"):
        words += f" at {rate / 1e6:,.2f} MB/s"
    return words + (f": {hold.text('message')}" if hold.text("message") else "")


def _at_pod(gateway: Timeline, pod: Timeline | None, silent: str, parts: Parts) -> None:
    wall = gateway.total("send", "answer")
    slow_client = sum(each.number("client_seconds") for each in gateway.named("answer"))
    if pod is None:
        parts.add(CauseCode.SLOW_CLIENT, min(slow_client, wall))
        late = min(gateway.number("late_seconds"), max(0.0, wall - slow_client))
        parts.add(CauseCode.GATEWAY_BUSY, late)
        parts.add(CauseCode.POD_SILENT, wall - slow_client - late, silent)
        return
    inside = Parts()
    _in_pod(pod, inside)
    worked = sum(part.seconds for part in inside.largest_first() if part.code is not CauseCode.SLOW_CLIENT)
    rest = max(0.0, wall - worked)
    slow = min(rest, max(inside.seconds(CauseCode.SLOW_CLIENT), slow_client))
    for part in inside.largest_first():
        if part.code is not CauseCode.SLOW_CLIENT:
            parts.add(part.code, part.seconds, *part.evidence)
    if slow > 0:
        parts.add(CauseCode.SLOW_CLIENT, slow, f"writing the answer waited {duration(slow)} for the client to read")
    rest -= slow
    late = min(gateway.number("late_seconds"), rest)
    parts.add(CauseCode.GATEWAY_BUSY, late, *([_late_sentence(gateway)] if late > _LEAST_SECONDS else []))
    parts.add(CauseCode.ELSEWHERE, rest - late)
    _machine(pod, parts)


def _late_sentence(gateway: Timeline) -> str:
    return f"the gateway's event loop was late by {duration(gateway.number('late_seconds'))} meanwhile"


def _in_pod(pod: Timeline, parts: Parts) -> None:
    tokens, media = pod.number("prompt_tokens"), pod.number("media")
    parts.add(CauseCode.MEDIA_DECODE if media else CauseCode.LONG_PROMPT, pod.total("receive"))
    parts.add(CauseCode.MEDIA_DECODE, pod.total("media"), *_media_evidence(media))
    parts.add(CauseCode.DECODERS_BUSY, pod.total("pool"))
    parts.add(CauseCode.LONG_PROMPT, pod.total("preparing"))
    # Requests without a key share one id, and are anybody's.
    mine = CauseCode.OWN_KEY_BUSY if pod.key not in ("", ANONYMOUS_ID) else CauseCode.NEIGHBOUR_PROMPT
    others = [rest for each in pod.beside if (rest := _without(each, pod)) is not None]
    strangers = [each for each in others if not each.own]
    prompts_before = _beside(others, "prompt")
    waited = pod.total("step", "others", "waiting")
    crowd = CauseCode.NEIGHBOUR_PROMPT if _busy(strangers, "prompt") else mine
    parts.add(crowd, waited, *prompts_before)
    parts.add(CauseCode.NEIGHBOUR_MEDIA, pod.total("towers"), *_media_beside(others, "prompt"))
    parts.add(CauseCode.OWN_MEDIA, pod.total("media-towers"), *_media_evidence(media))
    parts.add(CauseCode.BATCH_FULL, pod.total("slot"), *_batch_evidence(pod))
    parts.add(mine, pod.total("own-key"), *_beside([each for each in others if each.own], "prompt"))
    parts.add(CauseCode.LONG_PROMPT, pod.total("unsaid"))
    reading = pod.total("reading")
    parts.add(CauseCode.LONG_PROMPT, reading, *([f"{count(tokens, 'prompt token')}"] if tokens else []))
    before = sum(each.prompt_seconds for each in others if each.stage == "prompt")
    beside_reading = min(before - waited - pod.total("own-key"), reading)
    parts.move(beside_reading, (CauseCode.LONG_PROMPT,), crowd, *prompts_before)
    _answer(pod, others, mine, parts)
    parts.add(CauseCode.SLOW_CLIENT, pod.total("writing"))
    if rungs := pod.text("rungs"):
        after = pod.number("ladder_seconds")
        parts.move(after, _COMPUTED, CauseCode.MEMORY_LADDER, f"memory ran out; what was tried: {rungs}")
        parts.add(CauseCode.MEMORY_LADDER, 0.0, f"memory ran out; what was tried: {rungs}")


def _without(each: Beside, pod: Timeline) -> Beside | None:
    """What was computed for others; of the request's own key without the request itself. None if nothing."""
    if not each.own:
        return each
    own = int(pod.number("prompt_tokens")) if each.stage == "prompt" else 0
    tokens = max(0, each.prompt_tokens - own)
    seconds = each.prompt_seconds * tokens / each.prompt_tokens if each.prompt_tokens else 0.0
    if not tokens:
        return None
    return Beside(key=each.key, stage=each.stage, own=True, prompt_tokens=tokens, prompt_seconds=seconds)


def _answer(pod: Timeline, others: Sequence[Beside], mine: CauseCode, parts: Parts) -> None:
    tokens, seconds = pod.number("completion_tokens"), pod.total("decode")
    pace = f"{count(tokens, 'token')} in {duration(seconds)}" if tokens and seconds else ""
    parts.add(CauseCode.LONG_ANSWER, seconds, pace)
    answer = (CauseCode.LONG_ANSWER,)
    for code, group in (
        (CauseCode.NEIGHBOUR_PROMPT, [each for each in others if not each.own]),
        (mine, [each for each in others if each.own]),
    ):
        prompts = sum(each.prompt_seconds for each in group if each.stage == "answer")
        parts.move(prompts, answer, code, *_beside(group, "answer"))
    media = sum(each.media_seconds for each in others if each.stage == "answer")
    parts.move(media, answer, CauseCode.NEIGHBOUR_MEDIA, *_media_beside(others, "answer"))
    if times := pod.number("set_aside"):
        gap = pod.number("longest_gap_seconds")
        parts.move(gap, (*answer, CauseCode.NEIGHBOUR_PROMPT), CauseCode.SET_ASIDE, f"set aside {count(times, 'time')}")


def _machine(pod: Timeline, parts: Parts) -> None:
    taken = 0.0
    for name, code in _MACHINE:
        seconds = pod.number(name)
        if code is CauseCode.CPU_STARVED:
            seconds -= taken  # a thread of a throttled group waits for a CPU too, by the kernel's account
        if seconds < max(_LEAST_SECONDS, 0.03 * pod.seconds):
            continue
        parts.move(seconds, _COMPUTED, code, *_machine_evidence(pod, code, seconds))
        taken += seconds


def _machine_evidence(pod: Timeline, code: CauseCode, seconds: float) -> list[str]:
    match code:
        case CauseCode.CPU_THROTTLED:
            of = f" in {pod.number('throttled_periods'):,.0f} of {pod.number('periods'):,.0f} periods"
            return [f"its CPU limit stopped the pod for {duration(seconds)}{of}"]
        case CauseCode.CPU_STARVED:
            load = pod.number("load_average")
            busy = f"; load average {load:.1f} on {count(pod.number('cpus'), 'CPU')}" if load else ""
            return [f"the pod's threads were ready to run and had no CPU for {duration(seconds)}{busy}"]
        case CauseCode.POD_STOPPED:
            return [f"the pod's process didn't run at all for {duration(seconds)}"]
    swap = pod.number("swap_bytes")
    return [
        f"processes waited {duration(seconds)} for memory" + (f"; {swap / 1e6:,.0f} MB swapped out" if swap else "")
    ]


def _busy(others: Iterable[Beside], stage: str) -> bool:
    return any(each.stage == stage and (each.prompt_tokens or each.answer_tokens) for each in others)


def _beside(others: Iterable[Beside], stage: str) -> list[str]:
    """Whose prompts were read meanwhile, the most first."""
    busy = sorted(
        (each for each in others if each.stage == stage and each.prompt_tokens),
        key=lambda each: each.prompt_seconds, reverse=True,
    )  # fmt: skip
    when = "before its first token" if stage == "prompt" else "while it was answered"
    said = [
        f"{key_name(each.key)}: {count(each.prompt_tokens, 'prompt token')} in {duration(each.prompt_seconds)}"
        for each in busy
    ]
    return [f"{when}, {listed(said, 3)}"] if said else []


def _media_beside(others: Iterable[Beside], stage: str) -> list[str]:
    said = [
        f"{key_name(each.key)}: media for {duration(each.media_seconds)}"
        for each in others
        if each.stage == stage and each.media_seconds
    ]
    return [listed(said, 3)] if said else []


def _batch_evidence(pod: Timeline) -> list[str]:
    places = pod.number("places")
    return [f"the batch has {count(places, 'place')}" + _holders(pod)] if places else []


def _holders(pod: Timeline) -> str:
    return f"; when it came: {pod.text('holders')}" if pod.text("holders") else ""


def _media_evidence(media: float) -> list[str]:
    return [count(media, "medium", "media")] if media else []
