"""Whether a request can be computed at all, before it waits for its turn."""

from ams_common.quantity import format_bytes

from ams_pod.engines.port import EngineRefusal


def refusal(
    prompt_tokens: int, new_tokens: int, *, context_tokens: int, bytes_per_token: int, room: int
) -> EngineRefusal | None:
    """Why it can't be, with the numbers: its tokens against the context, its cache against `room` bytes; else None.

    `room` is what the cache may take with nothing else running.
    """
    if prompt_tokens >= context_tokens:
        return EngineRefusal(
            "context-length-exceeded",
            f"The prompt has {prompt_tokens} tokens; this model takes {context_tokens}, answer included.",
            limit=context_tokens,
            given=prompt_tokens,
        )
    tokens = min(context_tokens, prompt_tokens + new_tokens)
    needed = tokens * bytes_per_token
    if needed <= room:
        return None
    return EngineRefusal(
        "out-of-memory",
        f"{prompt_tokens} tokens of prompt and up to {tokens - prompt_tokens} of answer take {format_bytes(needed)} of "
        f"cache; {format_bytes(room)} are free with nothing else running.",
        limit=room,
        given=needed,
    )
