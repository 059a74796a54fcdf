"""From a request's fields to sampling: caps and defaults."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ams_common.errors import ApiError
from ams_common.wire import ChatRequest, CompletionRequest, GenerateRequest, Stop

from ams_pod.engines.port import ModelInfo, Sampling, context_exceeded
from ams_pod.serve.refusals import api_error

Api = Literal["generate", "openai"]

_OLDER_SERVER_NEW_TOKENS = 256
_FALLBACK_TEMPERATURE: dict[Api, float] = {"generate": 0.7, "openai": 1.0}  # where the model's authors are silent


def sampling_of(
    request: GenerateRequest | ChatRequest | CompletionRequest,
    requested_tokens: int | None,
    info: ModelInfo,
    cap: int,
    prompt_tokens: int,
) -> Sampling:
    """The sampling of a request whose prompt has `prompt_tokens`. ApiError if the context has no room for an answer.

    The answer is as long as was requested, as far as `cap`, which is limits.maxNewTokens (0: none), and the context
    allow.
    """
    api: Api = "generate" if isinstance(request, GenerateRequest) else "openai"
    room = info.context_tokens - prompt_tokens
    if prompt_tokens == 0:
        raise ApiError("missing_prompt", "The prompt holds no text.", param="prompt")
    if room < 1:
        part: Literal["messages", "prompt"] = "messages" if isinstance(request, ChatRequest) else "prompt"
        raise api_error(context_exceeded(info.context_tokens, prompt_tokens, part=part))
    most = min(cap or room, room)
    new_tokens = requested_tokens or (_OLDER_SERVER_NEW_TOKENS if api == "generate" else most)
    defaults = info.defaults
    return Sampling(
        max_new_tokens=min(new_tokens, most),
        temperature=_first(request.temperature, defaults.temperature, _FALLBACK_TEMPERATURE[api]),
        top_p=_first(request.top_p, defaults.top_p, 1.0),
        top_k=_first(request.top_k, defaults.top_k, 0),
        min_p=_first(request.min_p, 0.0),
        repetition_penalty=_first(request.repetition_penalty, defaults.repetition_penalty, 1.0),
        presence_penalty=_first(request.presence_penalty, 0.0),
        frequency_penalty=_first(request.frequency_penalty, 0.0),
        logit_bias=_biases(request.logit_bias or {}, info.vocabulary),
        seed=request.seed,
        ignore_eos=bool(request.ignore_eos),
        min_new_tokens=request.min_tokens or 0,
        stop_tokens=_known("stop_token_ids", request.stop_token_ids or (), info.vocabulary),
        allowed_tokens=_allowed(request.allowed_token_ids, info.vocabulary),
        logprobs=_logprobs(request),
        prompt_logprobs=_prompt_logprobs(request),
    )


def _logprobs(request: GenerateRequest | ChatRequest | CompletionRequest) -> int | None:
    """How many likeliest tokens are told beside each of the answer's."""
    match request:
        case ChatRequest(logprobs=True):
            return request.top_logprobs or 0
        case CompletionRequest():
            asked = request.logprobs
            if asked is None or asked is False:
                return 0 if (request.best_of or 1) > (request.n or 1) else None
            return int(asked)
    return None


def _prompt_logprobs(request: GenerateRequest | ChatRequest | CompletionRequest) -> int | None:
    """The same of the prompt's, which an answer with `echo` tells too."""
    if isinstance(request, GenerateRequest):
        return None
    if request.prompt_logprobs is None and isinstance(request, CompletionRequest) and request.echo:
        asked = request.logprobs
        return None if asked is None or asked is False else int(asked)
    return request.prompt_logprobs


def _known(field: str, tokens: Sequence[int], vocabulary: int | None) -> tuple[int, ...]:
    """ApiError for a token that the model doesn't have."""
    if vocabulary is not None and (unknown := [token for token in tokens if token >= vocabulary]):
        raise ApiError(
            "invalid_parameter",
            f"{field}: the model has no token {unknown[0]}; its tokens are 0 to {vocabulary - 1}.",
            param=field,
        )
    return tuple(tokens)


def _allowed(tokens: Sequence[int] | None, vocabulary: int | None) -> tuple[int, ...] | None:
    return None if tokens is None else _known("allowed_token_ids", tokens, vocabulary)


def _biases(biases: Mapping[int, float], vocabulary: int | None) -> tuple[tuple[int, float], ...]:
    """ApiError for a token that the model doesn't have."""
    _known("logit_bias", tuple(biases), vocabulary)
    return tuple(biases.items())


def stop_list(stop: Stop) -> list[str]:
    return [] if stop is None else [stop] if isinstance(stop, str) else list(stop)


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)
