"""What a generation is to a format that writes it, and a stream's events as clients read them."""

import json
from collections.abc import Iterable
from typing import Any, Protocol, cast

from ams_common.request_usage import RequestUsage
from ams_common.wire import Usage
from ams_pod.serve.generation import Generation
from ams_pod.serve.thinking import Delta


class _Ended:
    """A generation that has ended."""

    def __init__(self, finish_reason: str = "stop", stopped_by: str | None = None, cached: int = 0) -> None:
        self.finish_reason, self.stopped_by = finish_reason, stopped_by
        self.usage = Usage(10, 4, 14)
        self.used = RequestUsage(prompt_tokens=10, completion_tokens=4, cached_tokens=cached)
        self.reasoning_tokens = 2
        self.degraded = None


class _Format(Protocol):
    def begin(self, generation: Generation) -> bytes: ...
    def piece(self, delta: Delta) -> bytes: ...
    def end(self, generation: Generation) -> bytes: ...


def ended(finish_reason: str = "stop", stopped_by: str | None = None, cached: int = 0) -> Generation:
    return cast(Generation, _Ended(finish_reason, stopped_by, cached))


def streamed(form: _Format, deltas: Iterable[Delta], generation: Generation) -> list[dict[str, Any]]:
    """The events of a whole stream."""
    written = [form.begin(generation), *map(form.piece, deltas), form.end(generation)]
    return events_of(b"".join(written).decode())


def events_of(text: str) -> list[dict[str, Any]]:
    """The data of events, each named as its type says; comments are left out."""
    events = []
    for block in text.split("\n\n"):
        lines = [line for line in block.split("\n") if line and not line.startswith(":")]
        if not lines:
            continue
        name, data = (line.partition(": ")[2] for line in lines)
        event = json.loads(data)
        assert event["type"] == name
        events.append(event)
    return events
