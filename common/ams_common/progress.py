"""How far a model is on its way to answering: one type for downloads, loading, and the held request."""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from ams_common.lifecycle import Phase


class Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why something will not get ready: `reason` is a CamelCase condition reason, `message` a sentence."""

    reason: str
    message: str
    retryable: bool = False


class Download(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far a download is."""

    bytesDone: Annotated[int, Meta(description="bytes that are there")] = 0
    bytesTotal: Annotated[int | None, Meta(description="bytes of all files, when known")] = None
    bytesPerSecond: Annotated[float | None, Meta(description="current rate, in bytes a second")] = None
    etaSeconds: Annotated[float | None, Meta(description="seconds until the download ends")] = None
    file: Annotated[str | None, Meta(description="the file in transfer")] = None


class Progress(msgspec.Struct, frozen=True, omit_defaults=True):
    """A step on the way to ready. `percent` is of this phase (0 to 100), `eta_seconds` until the phase ends."""

    phase: Phase
    percent: float | None = None
    eta_seconds: float | None = None
    message: str = ""
    download: Download | None = None
    failure: Failure | None = None

    def comment(self) -> str:
        """The words of an SSE comment line or a log line: `downloading 43 % eta 190s`."""
        words = [self.phase.value]
        if self.percent is not None:
            words.append(f"{self.percent:.0f} %")
        if self.eta_seconds is not None:
            words.append(f"eta {self.eta_seconds:.0f}s")
        return " ".join(words)


# The share of a load, in percent, at which each of its steps begins and ends, in their order.
_STEPS: Final = {
    Phase.IMPORTING: (0, 5),
    Phase.BUILDING: (5, 10),
    Phase.READING: (10, 70),
    Phase.QUANTIZING: (10, 70),
    Phase.PACKING: (70, 90),
    Phase.WARMING_UP: (90, 97),
    Phase.CHECKING: (97, 100),
}


def load_percent(progress: Progress) -> int | None:
    """How far a whole load is, of which `progress` is a step; None for what is no step of one."""
    if (step := _STEPS.get(progress.phase)) is None:
        return None
    begin, end = step
    return int(begin + (end - begin) * min(max(progress.percent or 0.0, 0.0), 100.0) / 100)


class Load(msgspec.Struct, frozen=True):
    """`GET /load` of a model pod: requests running, waiting, how many fit, and tokens in the cache of how many.

    Tokens are counted since the pod started; a pod of another version may not tell them.
    """

    in_flight: int
    queued: int
    concurrent_requests: int
    queued_requests: int
    cache_tokens: int
    cache_capacity_tokens: int
    draining: bool = False
    prompt_tokens: int | None = None
    generated_tokens: int | None = None
    resident_bytes: int | None = None
