"""`ams why`: what delayed a request or made it fail, or why a model isn't ready, in the words of who recorded it."""

from typing import Any
from urllib.parse import urlencode

import aiohttp
import msgspec
from ams_common.outside import InvalidJson, read_json
from ams_common.plain import plain_text
from ams_common.timeline import Interval, Timeline
from ams_common.why.story import MOST_BYTES, Cause, Why
from ams_common.why.wording import duration

from ams_cli.gateway_client import GatewayClient, GatewayError, refusal

_WIDTH = 48
_MOST_ROWS = 24
_MOST_CAUSES = 6
_MOST_EVIDENCE = 6
_LONGEST = 400
_UNKNOWN = ("model_not_found", "request_unknown")


class NotKnown(GatewayError):
    """The gateway knows no model of this name, or no request of this id."""


async def ask(gateway: GatewayClient, name: str) -> Why:
    """About a model of this name, else about a request of this id; about all models without one.

    GatewayError, NotKnown.
    """
    if not name:
        return await fetch(gateway, {})
    try:
        return await fetch(gateway, {"model": name})
    except NotKnown:
        return await fetch(gateway, {"request": name})


async def fetch(gateway: GatewayClient, query: dict[str, str]) -> Why:
    """`GET /admin/why`. GatewayError, NotKnown."""
    path = "/admin/why" + (f"?{urlencode(query)}" if query else "")
    answer = await gateway.open("GET", path)
    try:
        data = await answer.read()
    except aiohttp.ClientError as error:
        raise GatewayError(f"{gateway.where} closed the connection ({error})") from None
    finally:
        answer.close()
    if answer.status != 200:
        kind = NotKnown if _code(data) in _UNKNOWN else GatewayError
        raise kind(refusal(answer, data))
    try:
        return read_json(data, Why, max_bytes=4 * MOST_BYTES)
    except InvalidJson:
        raise GatewayError(f"{gateway.where}{path} is not AI Model Server's") from None


def as_json(why: Why) -> str:
    return msgspec.json.format(msgspec.json.encode(why)).decode()


def as_text(why: Why, *, blocks: bool = True) -> str:
    """The first cause, then where the time went, then each cause with what tells so and what to do.

    `blocks`: whether the terminal can show them.
    """
    lines = [_plain(why.sentence)]
    if why.about == "request":
        for timeline in why.timelines[:4]:
            lines += ["", *_bars(timeline, why.timelines[0], "█" if blocks else "#")]
    elif why.model is not None:
        lines += ["", *_state(why)]
    for number, cause in enumerate(why.causes[:_MOST_CAUSES]):
        lines += ["", *_cause(cause, number)]
    if len(why.causes) > _MOST_CAUSES:
        lines += ["", f"and {len(why.causes) - _MOST_CAUSES} more; --json has all"]
    lines += [f"note: {_plain(note)}" for note in why.notes]
    return "\n".join(lines)


def _cause(cause: Cause, number: int) -> list[str]:
    share = f" ({100 * cause.share:.0f} %)" if cause.share is not None else ""
    lines = [f"{number + 1}. {cause.code}{share}: {_plain(cause.sentence)}"]
    lines += [f"   - {_plain(each)}" for each in cause.evidence[:_MOST_EVIDENCE]]
    if cause.help:
        lines.append(f"   what to do: {_plain(cause.help)}")
    return lines


def _bars(timeline: Timeline, first: Timeline, block: str) -> list[str]:
    """A line for each interval, all timelines on the time of the first."""
    total = max(first.seconds, timeline.seconds, 1e-9)
    offset = min(max(0.0, timeline.started - first.started), total) if timeline is not first else 0.0
    end = f", {timeline.code}" if timeline.code else ""
    end += f" {timeline.error}" if timeline.error else ""
    where = f" {_plain(timeline.pod)}" if timeline.component == "pod" and timeline.pod else ""
    going = ", running" if timeline.running else ""
    lines = [f"{_plain(timeline.component)}{where}: {duration(timeline.seconds)}{end}{going}"]
    for each in timeline.intervals[:_MOST_ROWS]:
        name = _named(each)
        begin = round(_WIDTH * min(1.0, (offset + each.start) / total))
        size = max(1, round(_WIDTH * min(1.0, each.seconds / total)))
        begin = min(begin, _WIDTH - 1)
        bar = " " * begin + block * min(size, _WIDTH - begin)
        lines.append(f"  {name:<18.18} {bar:<{_WIDTH}} {duration(each.seconds):>9}")
    return lines


def _named(each: Interval) -> str:
    """With what tells one interval from others of its name."""
    detail = each.text("phase") or each.text("reason")
    return _plain(f"{each.name} {detail}" if detail else each.name)


def _state(why: Why) -> list[str]:
    model = why.model
    assert model is not None
    percent = f" {model.percent:.0f} %" if model.percent is not None else ""
    lines = [
        f"{_plain(model.name)}: {model.phase.value}{percent}, {model.ready_replicas} of {model.replicas} pods ready"
    ]
    for pod in model.pods[:10]:
        facts: list[str] = [f"{pod.in_flight} in flight here"]
        if pod.running is not None:
            facts.append(f"{pod.running} of {pod.places} running, {pod.queued} waiting")
        if pod.silent:
            facts.append(pod.silent)
        lines.append(f"  pod {_plain(pod.pod)}: {_plain('; '.join(facts))}")
    return lines


def _plain(text: str) -> str:
    return plain_text(text, _LONGEST)


def _code(body: bytes) -> str:
    try:
        document = read_json(body, dict[str, Any])
    except InvalidJson:
        return ""
    details = document.get("details")
    return str(details.get("code", "")) if isinstance(details, dict) else ""
