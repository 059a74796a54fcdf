"""Rates from counters that only grow while a pod lives. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

WINDOW_SECONDS = 5.0
_SHORTEST_SECONDS = 0.2  # between less, a rate is mostly chance


@dataclass(frozen=True, slots=True)
class Sample:
    """What a pod's counters were at a time, in seconds of a clock that never jumps."""

    at: float
    prompt_tokens: int
    generated_tokens: int


@dataclass(frozen=True, slots=True)
class Rates:
    """Tokens a second; None while there is nothing to tell them from."""

    prompt_tokens: float | None = None
    generated_tokens: float | None = None


def add_sample(samples: Sequence[Sample], new: Sample) -> list[Sample]:
    """`samples` and `new`, without what is too old to matter or is of a pod before a restart."""
    if samples and (
        new.generated_tokens < samples[-1].generated_tokens or new.prompt_tokens < samples[-1].prompt_tokens
    ):
        return [new]
    return [*(sample for sample in samples if sample.at >= new.at - WINDOW_SECONDS), new]


def rates(samples: Sequence[Sample], now: float) -> Rates:
    """Of the last seconds; None where the pod was silent that long."""
    recent = [sample for sample in samples if sample.at >= now - WINDOW_SECONDS]
    if len(recent) < 2 or (seconds := recent[-1].at - recent[0].at) < _SHORTEST_SECONDS:
        return Rates()
    first, last = recent[0], recent[-1]
    return Rates(
        round((last.prompt_tokens - first.prompt_tokens) / seconds, 1),
        round((last.generated_tokens - first.generated_tokens) / seconds, 1),
    )
