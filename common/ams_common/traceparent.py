"""W3C Trace Context (https://www.w3.org/TR/trace-context/): what a client says of its trace, and what a pod is told.

Whatever a client sends costs the look at one header of bounded length: what isn't valid counts as not sent.
"""

import re
from dataclasses import dataclass

from ams_common.printable import printable

HEADER_TRACE_PARENT = "traceparent"
HEADER_TRACE_STATE = "tracestate"

_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[\x20-\x7e]{0,200})?").fullmatch
_LONGEST_PARENT, _LONGEST_STATE = 256, 512
_NO_TRACE, _NO_SPAN = "0" * 32, "0" * 16
_SAMPLED = 1
_TRACE_BYTES, _SPAN_BYTES = 16, 8
CHANCE_BYTES = _TRACE_BYTES + 2 * _SPAN_BYTES


@dataclass(frozen=True, slots=True)
class TraceContext:
    """Of one request in one component: ids in lower-case hex, as in the header.

    `span` is what this component does for the request, `onward` the part of it that another component works on;
    `parent` is the span that it belongs to, empty if this one is the first.
    """

    trace: str
    span: str
    onward: str
    parent: str = ""
    sampled: bool = False
    state: str = ""

    @property
    def header(self) -> str:
        """The traceparent that the next component gets."""
        return f"00-{self.trace}-{self.onward}-{'01' if self.sampled else '00'}"


def begin_trace(parent: str | None, state: str | None, ratio: float, chance: bytes) -> TraceContext:
    """The context of a request with these headers; `chance` are `CHANCE_BYTES` random bytes.

    Who began a trace decides whether it is recorded; of those that begin here, `ratio` (0 to 1) are.
    """
    ids = chance.hex()
    span, onward = ids[32:48], ids[48:64]
    if parent is not None and len(parent) <= _LONGEST_PARENT and (found := _PARENT(parent)) is not None:
        version, trace, sender, flags, rest = found.groups()
        if version != "ff" and trace != _NO_TRACE and sender != _NO_SPAN and not (version == "00" and rest):
            sampled = bool(int(flags, 16) & _SAMPLED)
            return TraceContext(trace, span, onward, sender, sampled, _state(state))
    trace = ids[:32]
    return TraceContext(trace, span, onward, sampled=int(trace[16:], 16) < ratio * (1 << 64))


def _state(text: str | None) -> str:
    """Passed on as it came, or not at all."""
    if text is None or len(text) > _LONGEST_STATE or printable(text) != text:
        return ""
    return text
