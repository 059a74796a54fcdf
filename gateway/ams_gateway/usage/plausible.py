"""How far a pod is believed: whoever runs pods may invent usage, but no more than one request can have used."""

from ams_common.request_usage import RequestUsage

from ams_gateway.registry.port import Model

_MOST_CONTEXT = 10_000_000
_MOST_MEDIA = 10_000
_SLACK_SECONDS = 60.0


def plausible(usage: RequestUsage, model: Model) -> RequestUsage:
    """What one request to this model can have used at most."""
    context = model.context_tokens or _MOST_CONTEXT
    prompt = min(usage.prompt_tokens, context)
    seconds = model.request_timeout_seconds + _SLACK_SECONDS
    if (
        usage.prompt_tokens <= context
        and usage.completion_tokens <= context
        and usage.cached_tokens <= prompt
        and usage.media <= _MOST_MEDIA
        and usage.compute_seconds <= seconds
    ):
        return usage
    return RequestUsage(
        prompt_tokens=prompt,
        completion_tokens=min(usage.completion_tokens, context),
        cached_tokens=min(usage.cached_tokens, prompt),
        media=min(usage.media, _MOST_MEDIA),
        compute_seconds=min(usage.compute_seconds, seconds),
    )
