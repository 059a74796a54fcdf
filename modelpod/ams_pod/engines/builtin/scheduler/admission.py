"""Whether a request can be computed at all, before it waits for its turn."""

from ams_common.quantity import format_bytes

from ams_pod.engines.port import EngineRefusal, context_exceeded


def new_tokens_for(
    prompt_tokens: int, new_tokens: int, *, context_tokens: int, bytes_per_token: int, room: int
) -> int | EngineRefusal:
    """How many of `new_tokens` the context and `room` bytes of cache leave; a refusal, with the numbers, if none.

    `room` is what the cache may take with nothing else running.
    """
    if prompt_tokens >= context_tokens:
        return context_exceeded(context_tokens, prompt_tokens)
    most = min(context_tokens, prompt_tokens + new_tokens)
    if bytes_per_token:
        most = min(most, room // bytes_per_token)
    if most > prompt_tokens:
        return most - prompt_tokens
    needed = (prompt_tokens + 1) * bytes_per_token
    return EngineRefusal(
        "out-of-memory",
        f"{prompt_tokens} tokens of prompt take {format_bytes(needed)} of cache; {format_bytes(room)} are free with "
        "nothing else running.",
        limit=room,
        given=needed,
    )
