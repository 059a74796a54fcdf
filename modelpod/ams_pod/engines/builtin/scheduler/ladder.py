"""What is tried when memory runs out for a request: the memory ladder. Pure: a situation in, the next rung out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

from ams_pod.engines.port import Degraded, LoadFailed

Stage = Literal["tower", "prefill", "decode"]
Rung = Literal["shrink", "cpu", "text-only", "simplified", "refused"]


@dataclass(frozen=True, slots=True)
class OomSituation:
    """Of a request that memory ran out for.

    `others` were computed or held memory beside it; `streamed` means that tokens of its answer are with the client;
    `text` that there is a prompt without its media; `cpu` that a copy of the model on the CPU can take it on.
    """

    others: bool
    streamed: bool
    text: bool
    cpu: bool
    tried: frozenset[str] = frozenset()


def next_rung(fallbacks: Sequence[Degraded], situation: OomSituation) -> Rung:
    """First without others beside it; then each fallback, in order, that can help and hasn't been tried.

    An answer of which the client has a part is never continued from another prompt.
    """
    if situation.others:
        return "shrink"
    possible = {
        "cpu": situation.cpu,
        "text-only": situation.text and not situation.streamed,
        "simplified": not situation.streamed,
    }
    for rung in fallbacks:
        if possible[rung] and rung not in situation.tried:
            return rung
    return "refused"


def parse_fallbacks(text: str) -> tuple[Degraded, ...]:
    """From the settings, names separated by commas. LoadFailed for one that doesn't exist."""
    names = tuple(name for each in text.split(",") if (name := each.strip()))
    for name in names:
        if name not in get_args(Degraded):
            raise LoadFailed(f"fallbacks: {name!r} is none of {', '.join(get_args(Degraded))}")
    return cast(tuple[Degraded, ...], names)
