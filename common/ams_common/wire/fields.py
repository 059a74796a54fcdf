"""Types of fields that several request bodies share, with their limits."""

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

Temperature = Annotated[float, Meta(ge=0, le=2)]
TopP = Annotated[float, Meta(gt=0, le=1)]
TopK = Annotated[int, Meta(ge=0, le=1_000_000)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
NewTokens = Annotated[int, Meta(ge=1, le=2**31)]
Penalty = Annotated[float, Meta(gt=0, le=10)]
StopString = Annotated[str, Meta(min_length=1, max_length=1000)]
Stop = StopString | Annotated[list[StopString], Meta(max_length=16)] | None
FinishReason = Literal["stop", "length"]

FINISH_REASON = "`stop`: the model's end or a stop string; `length`: the tokens ran out."
STOP = "One text, or up to 16; the answer ends before the first of them."
TOP_P = "Sample from the likeliest tokens that add up to this probability; the model's default when left out."
TOP_K = "Sample from this many likeliest tokens; 0 is no limit. The model's default when left out."
REPETITION_PENALTY = "Above 1, tokens that were used before get less likely; the model's default when left out."
SEED = "The same seed and request give the same answer; random when left out."
IGNORE_EOS = "Continue past the model's own end until the token limit; for measurements."
DEGRADED = "How the answer was reduced because memory ran out: `cpu`, `text-only` or `simplified`."
NOTE = "A sentence about what was reduced."


class Usage(msgspec.Struct, frozen=True):
    """Tokens of one request."""

    prompt_tokens: Annotated[int, Meta(description="Tokens of the prompt, media included.")]
    completion_tokens: Annotated[int, Meta(description="Tokens of the answer, reasoning included.")]
    total_tokens: Annotated[int, Meta(description="Sum of both.")]


class Degradable(msgspec.Struct, frozen=True, kw_only=True):
    """What an OpenAI answer carries beside OpenAI's fields when memory ran out; absent otherwise."""

    degraded: Annotated[str | UnsetType, Meta(description=DEGRADED)] = UNSET
    note: Annotated[str | UnsetType, Meta(description=NOTE)] = UNSET
