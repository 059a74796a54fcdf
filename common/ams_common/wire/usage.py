"""What keys have used: the answer of `GET /admin/usage`."""

from typing import Annotated

import msgspec
from msgspec import Meta


class UsageTotals(msgspec.Struct, frozen=True, kw_only=True):
    """What was used in all."""

    requests: Annotated[int, Meta(description="Requests that were let in and ended.")]
    prompt_tokens: Annotated[int, Meta(description="Tokens of prompts.")]
    cached_tokens: Annotated[
        int, Meta(description="Tokens of prompts, among those of `prompt_tokens`, that were not computed again.")
    ]
    completion_tokens: Annotated[int, Meta(description="Tokens of answers.")]
    media: Annotated[int, Meta(description="Images, recordings and videos.")]
    compute_seconds: Annotated[
        float,
        Meta(
            description="Time that models computed, in seconds; the time of a step is shared out over the tokens in it."
        ),
    ]


class UsageRow(UsageTotals, frozen=True, kw_only=True, omit_defaults=True):
    """What was used by one key, with one model, and so on: what `group` asked for."""

    start: Annotated[
        str | None, Meta(description="When the hour, day or month began, in UTC: `2026-11-26T06:00:00Z`.")
    ] = None
    key: Annotated[str | None, Meta(description="Name of the key, as it was called last.")] = None
    key_id: Annotated[str | None, Meta(description="Id of the key, which stays when it is rotated.")] = None
    model: Annotated[str | None, Meta(description="Name of the model.")] = None
    outcome: Annotated[
        str | None,
        Meta(
            description="How requests ended: `answered`, `cached` (from the cache of answers), `failed`, or `cut` "
            "(the client left, or the pod was lost)."
        ),
    ] = None


class UsageReport(msgspec.Struct, frozen=True, kw_only=True, rename={"start": "from", "end": "to"}):
    """What was used in a time, in whole hours."""

    start: Annotated[str, Meta(description="Begin of the time, in UTC.")]
    end: Annotated[str, Meta(description="End of the time, in UTC; what ended then is not in it.")]
    group: Annotated[
        list[str], Meta(description="What rows are made by: `key`, `model`, `outcome`, `hour`, `day`, `month`.")
    ]
    rows: Annotated[list[UsageRow], Meta(description="Sorted by time, then by tokens.")]
    total: Annotated[UsageTotals, Meta(description="The sum of all rows.")]
