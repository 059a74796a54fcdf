"""What a hub reports of a source: what the files are, or why they can't be had."""

from dataclasses import dataclass

from ams_common.memory_offers import ModelSize
from ams_common.progress import Failure
from ams_common.reasons import Reason
from ams_common.source import HubSource


@dataclass(frozen=True, slots=True)
class Question:
    """A source and what its pods may do there: use a token, which the operator never sees, and take pickled weights.

    `signature` is the file of the signature that they ask for.
    """

    source: HubSource
    token: bool = False
    allow_pickle: bool = False
    signature: str | None = None


@dataclass(frozen=True, slots=True)
class HubReport:
    """`failure` is why no pod could serve the source; HubUnreachable where nothing is known. `note` is for people."""

    failure: Failure | None = None
    note: str = ""
    revision: str | None = None
    architectures: tuple[str, ...] = ()
    weights_bytes: int | None = None
    size: ModelSize | None = None

    @property
    def reached(self) -> bool:
        return self.failure is None or self.failure.reason != Reason.HUB_UNREACHABLE


def unreachable(message: str) -> HubReport:
    return HubReport(Failure(Reason.HUB_UNREACHABLE, message, retryable=True))
