"""Logarithms of probabilities as the APIs have them."""

from collections.abc import Callable, Sequence

from ams_common.wire import (
    ChatLogprobs,
    CompletionLogprobs,
    PromptLogprob,
    PromptLogprobs,
    TokenLogprob,
    TopLogprob,
)

from ams_pod.engines.port import TokenLogprobs

Bytes = Callable[[int], bytes]
"""What one token stands for."""

_LEAST = -9999.0  # JSON has no infinity


def chat_logprobs(tokens: Sequence[TokenLogprobs], bytes_of: Bytes) -> ChatLogprobs:
    return ChatLogprobs(
        content=[
            TokenLogprob(
                token=_text(each.token, bytes_of),
                logprob=_told(each.logprob),
                bytes=list(bytes_of(each.token)),
                top_logprobs=[
                    TopLogprob(token=_text(token, bytes_of), logprob=_told(value), bytes=list(bytes_of(token)))
                    for token, value in each.top
                ],
            )
            for each in tokens
        ]
    )


def completion_logprobs(
    ids: Sequence[int],
    tokens: Sequence[TokenLogprobs | None],
    bytes_of: Bytes,
    *,
    top: int,
    offset: int = 0,
) -> CompletionLogprobs:
    """Of these tokens, of which the first may have none. `offset` is where the text of the first one begins."""
    texts = [_text(token, bytes_of) for token in ids]
    offsets = []
    for text in texts:
        offsets.append(offset)
        offset += len(text)
    return CompletionLogprobs(
        tokens=texts,
        token_logprobs=[None if each is None else _told(each.logprob) for each in tokens],
        top_logprobs=[None if each is None else _by_text(each, bytes_of, top) for each in tokens],
        text_offset=offsets,
    )


def prompt_logprobs(ids: Sequence[int], tokens: Sequence[TokenLogprobs | None], bytes_of: Bytes) -> PromptLogprobs:
    """As vLLM has them."""
    return [None if each is None else _by_id(each, bytes_of) for _, each in zip(ids, tokens, strict=False)]


def _by_text(token: TokenLogprobs, bytes_of: Bytes, top: int) -> dict[str, float]:
    """The likeliest one for each text, where several tokens have the same."""
    found: dict[str, float] = {}
    for number, value in [*token.top[:top], (token.token, token.logprob)]:
        found.setdefault(_text(number, bytes_of), _told(value))
    return found


def _by_id(token: TokenLogprobs, bytes_of: Bytes) -> dict[str, PromptLogprob]:
    ranks = {number: rank for rank, (number, _) in enumerate(token.top, 1)}
    values = {token.token: token.logprob} | dict(token.top)
    return {
        str(number): PromptLogprob(logprob=_told(value), rank=ranks.get(number), decoded_token=_text(number, bytes_of))
        for number, value in values.items()
    }


def _text(token: int, bytes_of: Bytes) -> str:
    return bytes_of(token).decode(errors="replace")


def _told(logprob: float) -> float:
    return max(logprob, _LEAST)
