"""From a request's fields to sampling: caps, defaults, and sentences about what can't be done."""

from typing import Any, Literal

from ams_common.errors import ApiError
from ams_common.wire import ChatRequest, CompletionRequest, GenerateRequest, Stop

from ams_pod.engines.port import ModelInfo, Sampling

Api = Literal["generate", "openai"]

_OLDER_SERVER_NEW_TOKENS = 256
_FALLBACK_TEMPERATURE: dict[Api, float] = {"generate": 0.7, "openai": 1.0}  # where the model's authors are silent


def sampling_of(
    request: GenerateRequest | ChatRequest | CompletionRequest,
    requested_tokens: int | None,
    field: str,
    info: ModelInfo,
    cap: int,
    prompt_tokens: int,
) -> Sampling:
    """The sampling of a request whose prompt has `prompt_tokens`.

    `requested_tokens` came in `field`; `cap` is limits.maxNewTokens. ApiError if the cap or the context is exceeded.
    """
    api: Api = "generate" if isinstance(request, GenerateRequest) else "openai"
    if requested_tokens is not None and requested_tokens > cap:
        raise ApiError(
            "invalid_parameter",
            f"{field}: {requested_tokens} is above this model's limit of {cap}.",
            param=field,
            limit=cap,
            given=requested_tokens,
        )
    room = info.context_tokens - prompt_tokens
    if prompt_tokens == 0:
        raise ApiError("missing_prompt", "The prompt holds no text.", param="prompt")
    if room < 1:
        raise ApiError(
            "context_length_exceeded",
            f"The prompt has {prompt_tokens} tokens; this model takes {info.context_tokens}, answer included.",
            param="messages" if isinstance(request, ChatRequest) else "prompt",
            limit=info.context_tokens,
            given=prompt_tokens,
        )
    new_tokens = requested_tokens or (min(cap, _OLDER_SERVER_NEW_TOKENS) if api == "generate" else cap)
    defaults = info.defaults
    return Sampling(
        max_new_tokens=min(new_tokens, room),
        temperature=_first(request.temperature, defaults.temperature, _FALLBACK_TEMPERATURE[api]),
        top_p=_first(request.top_p, defaults.top_p, 1.0),
        top_k=_first(request.top_k, defaults.top_k, 0),
        min_p=_first(request.min_p, 0.0),
        repetition_penalty=_first(request.repetition_penalty, defaults.repetition_penalty, 1.0),
        seed=request.seed,
        ignore_eos=bool(request.ignore_eos),
    )


def stop_list(stop: Stop) -> list[str]:
    return [] if stop is None else [stop] if isinstance(stop, str) else list(stop)


def refuse_unsupported(request: ChatRequest | CompletionRequest) -> None:
    """ApiError for a field that would change the answer and that this server can't honour."""
    refusals: list[tuple[str, Any, str]] = [
        ("n", request.n not in (None, 1), "only 1 answer a request is supported"),
        ("frequency_penalty", request.frequency_penalty, "is not supported; use repetition_penalty"),
        ("presence_penalty", request.presence_penalty, "is not supported; use repetition_penalty"),
        ("logit_bias", request.logit_bias, "is not supported"),
        ("logprobs", request.logprobs not in (None, False), "is not supported"),
    ]
    if isinstance(request, ChatRequest):
        kind = (request.response_format or {}).get("type", "text")
        refusals += [
            ("tools", request.tools, "are not supported"),
            ("response_format", kind != "text", "only type text is supported"),
        ]
    else:
        refusals += [
            ("echo", request.echo, "is not supported"),
            ("suffix", request.suffix, "is not supported"),
            ("best_of", request.best_of not in (None, 1), "only 1 is supported"),
        ]
    for field, refused, sentence in refusals:
        if refused:
            raise ApiError("invalid_parameter", f"{field}: {sentence}.", param=field)


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)
