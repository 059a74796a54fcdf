"""Logarithms of the probabilities of tokens, as OpenAI's and vLLM's APIs have them. One of 0 is told as -9999."""

from typing import Annotated

import msgspec
from msgspec import Meta

_TOKEN = "The token's text; half a character is the replacement character."
_LOGPROB = "Natural logarithm of its probability, before temperature and all else that sampling changes."
_BYTES = "Its bytes, which may be half a character."


class TopLogprob(msgspec.Struct, frozen=True, kw_only=True):
    """One of the likeliest tokens at a place."""

    token: Annotated[str, Meta(description=_TOKEN)]
    logprob: Annotated[float, Meta(description=_LOGPROB)]
    bytes: Annotated[list[int], Meta(description=_BYTES)]


class TokenLogprob(msgspec.Struct, frozen=True, kw_only=True):
    """One token of an answer."""

    token: Annotated[str, Meta(description=_TOKEN)]
    logprob: Annotated[float, Meta(description=_LOGPROB)]
    bytes: Annotated[list[int], Meta(description=_BYTES)]
    top_logprobs: Annotated[list[TopLogprob], Meta(description="The likeliest tokens at its place.")]


class ChatLogprobs(msgspec.Struct, frozen=True, kw_only=True):
    """Of a chat's answer."""

    content: Annotated[list[TokenLogprob], Meta(description="Its tokens, those of a reasoning block included.")]
    refusal: Annotated[None, Meta(description="Always null.")] = None


class CompletionLogprobs(msgspec.Struct, frozen=True, kw_only=True):
    """Of a completion, in lists of one length; of the prompt too, with echo."""

    tokens: Annotated[list[str], Meta(description="The texts of the tokens; one that ended the answer is the last.")]
    token_logprobs: Annotated[list[float | None], Meta(description=f"{_LOGPROB} The first of a prompt has none.")]
    top_logprobs: Annotated[
        list[dict[str, float] | None],
        Meta(description="The likeliest tokens at its place and itself, by text."),
    ]
    text_offset: Annotated[list[int], Meta(description="Where each token begins in the text, in characters.")]


class PromptLogprob(msgspec.Struct, frozen=True, kw_only=True):
    """One token at a place of the prompt."""

    logprob: Annotated[float, Meta(description=_LOGPROB)]
    rank: Annotated[int | None, Meta(description="1 is the likeliest; null where it is behind those that are told.")]
    decoded_token: Annotated[str, Meta(description=_TOKEN)]


PromptLogprobs = list[dict[str, PromptLogprob] | None]
