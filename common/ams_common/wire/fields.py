"""Types of fields that several request bodies share, with their limits."""

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

Temperature = Annotated[float, Meta(ge=0, le=2)]
TopP = Annotated[float, Meta(ge=0, le=1)]
MinP = Annotated[float, Meta(ge=0, le=1)]
TopK = Annotated[int, Meta(ge=0, le=1_000_000)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
NewTokens = Annotated[int, Meta(ge=1, le=2**63 - 1)]
Penalty = Annotated[float, Meta(gt=0, le=10)]
OffsetPenalty = Annotated[float, Meta(ge=-2, le=2)]
TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
TokenIds = Annotated[list[TokenId], Meta(max_length=1024)]
NoOrMoreTokens = Annotated[int, Meta(ge=0, le=2**63 - 1)]
LogitBias = Annotated[dict[TokenId, Annotated[float, Meta(ge=-100, le=100)]], Meta(max_length=1024)]
StopString = Annotated[str, Meta(min_length=1, max_length=1000)]
Stop = StopString | Annotated[list[StopString], Meta(max_length=16)] | None
FinishReason = Literal["stop", "length", "tool_calls"]

FINISH_REASON = (
    "`stop`: the model's end or a stop string; `length`: the tokens ran out; `tool_calls`: the model calls tools."
)
DEGRADED = "How the answer was reduced because memory ran out: `cpu`, `text-only` or `simplified`."
NOTE = "A sentence about what was reduced."


class SamplingFields(msgspec.Struct, frozen=True, kw_only=True):
    """How the next token is chosen: the same on all routes that generate. Left out, the model's own default holds."""

    temperature: Annotated[
        Temperature | None,
        Meta(
            description="0 always takes the likeliest token. Left out: the model's default, else 0.7 on /generate and "
            "1 on /v1."
        ),
    ] = None
    top_p: Annotated[
        TopP | None,
        Meta(description="Sample from the likeliest tokens that add up to this probability; 0: the likeliest."),
    ] = None
    top_k: Annotated[TopK | None, Meta(description="Sample from this many likeliest tokens; 0 is no limit.")] = None
    min_p: Annotated[
        MinP | None, Meta(description="Sample from tokens at least this likely, relative to the likeliest one; 0: all.")
    ] = None
    repetition_penalty: Annotated[
        Penalty | None, Meta(description="Above 1, tokens that were used before get less likely.")
    ] = None
    presence_penalty: Annotated[
        OffsetPenalty | None, Meta(description="Taken off the logits of tokens that the answer has.")
    ] = None
    frequency_penalty: Annotated[
        OffsetPenalty | None, Meta(description="Taken off the logits of tokens for each time that the answer has them.")
    ] = None
    logit_bias: Annotated[
        LogitBias | None, Meta(description="Added to the logits of tokens, by their ids; -100 bans one.")
    ] = None
    seed: Annotated[
        Seed | None, Meta(description="The same seed and request give the same answer. Left out: random.")
    ] = None
    stop: Annotated[Stop, Meta(description="One text, or up to 16; the answer ends before the first of them.")] = None
    cache_salt: Annotated[
        Annotated[str, Meta(max_length=256)] | None,
        Meta(description="Only requests with the same key and salt use each other's cached prompts."),
    ] = None
    min_tokens: Annotated[
        NoOrMoreTokens | None,
        Meta(description="The answer doesn't end by itself before so many tokens."),
    ] = None
    stop_token_ids: Annotated[
        TokenIds | None, Meta(description="Tokens that end the answer, beside the model's own; up to 1,024.")
    ] = None
    allowed_token_ids: Annotated[
        Annotated[list[TokenId], Meta(min_length=1, max_length=100_000)] | None,
        Meta(description="The answer has no other tokens than these, up to 100,000."),
    ] = None
    include_stop_str_in_output: Annotated[
        bool | None, Meta(description="`true` leaves the text that stopped the answer at its end.")
    ] = None
    skip_special_tokens: Annotated[
        bool | None, Meta(description="`false` shows the model's special tokens as text.")
    ] = None
    ignore_eos: Annotated[
        bool | None, Meta(description="Continue past the model's own end until the token limit; for measurements.")
    ] = None


class PromptTokensDetails(msgspec.Struct, frozen=True, kw_only=True):
    """What the tokens of a prompt are."""

    cached_tokens: Annotated[int, Meta(description="Tokens that an earlier request had computed.")] = 0


class CompletionTokensDetails(msgspec.Struct, frozen=True, kw_only=True):
    """What the tokens of an answer are."""

    reasoning_tokens: Annotated[int, Meta(description="Tokens of a reasoning block.")] = 0


class Usage(msgspec.Struct, frozen=True):
    """Tokens of one request; the details on /v1 only."""

    prompt_tokens: Annotated[int, Meta(description="Tokens of the prompt, media included.")]
    completion_tokens: Annotated[int, Meta(description="Tokens of the answer, reasoning included.")]
    total_tokens: Annotated[int, Meta(description="Sum of both.")]
    prompt_tokens_details: Annotated[
        PromptTokensDetails | UnsetType, Meta(description="What the tokens of the prompt are.")
    ] = UNSET
    completion_tokens_details: Annotated[
        CompletionTokensDetails | UnsetType, Meta(description="What the tokens of the answer are.")
    ] = UNSET


class Degradable(msgspec.Struct, frozen=True, kw_only=True):
    """What an OpenAI answer carries beside OpenAI's fields when memory ran out; absent otherwise."""

    degraded: Annotated[str | UnsetType, Meta(description=DEGRADED)] = UNSET
    note: Annotated[str | UnsetType, Meta(description=NOTE)] = UNSET
