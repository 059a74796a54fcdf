"""What the rest of the gateway asks of the ledger, wherever it is kept."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol

import msgspec
from ams_common.request_usage import RequestUsage


class Outcome(StrEnum):
    """How a request ended, as far as the ledger tells requests apart."""

    ANSWERED = "answered"  # with status 200, to the end
    CACHED = "cached"  # answered from the answer cache: tokens as they were answered, no compute
    FAILED = "failed"  # refused or failed once it had been let in; with what it used until then
    CUT = "cut"  # the client left or the gateway lost the pod in the middle; a pod may tell later what was used


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One ended request. `late`: its request was counted before, this only adds what it used."""

    key_id: str
    key_name: str
    model: str
    outcome: Outcome
    usage: RequestUsage
    late: bool = False


class Ledger(Protocol):
    """Adds up entries by hour, key, model and outcome. All methods run on the gateway's event loop."""

    def add(self, entry: Entry) -> None:
        """Take an entry. Never blocks and never fails; it is safe from a kill of the process within a second."""

    async def month_tokens(self, key_ids: Sequence[str]) -> dict[str, int]:
        """Tokens of prompts and answers in this calendar month (UTC), by key."""
