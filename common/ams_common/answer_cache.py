"""Which requests have answers that may be given again, and what they are told apart by. Pure."""

import hashlib
from typing import Any

import msgspec

from ams_common.outside import InvalidJson, read_json

_PLACES_OF_MEDIA = frozenset(
    {"url", "image_url", "video_url", "audio_url", "file_url", "image", "audio", "video", "images", "audios", "videos"}
)


def cache_key(*, model: str, key_id: str, target: str, body: bytes) -> str | None:
    """What tells a request's answer from all others of one version of a model, in hex; None if it may differ each time.

    Alike are requests that decode greedily (`temperature` 0) or with a `seed`. Media by URL may change, so that a
    request with one is never alike. `key_id` is whose request it is: an answer's speed tells nobody what others asked.
    """
    try:
        request = read_json(body, dict[str, Any], max_bytes=len(body) + 1)
    except InvalidJson:
        return None
    if not _is_repeatable(request) or _names_urls(request):
        return None
    canonical = msgspec.json.encode(request, order="deterministic")
    parts = (model, key_id, target)
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogateescape")
        digest.update(len(data).to_bytes(4, "big") + data)
    digest.update(canonical)
    return digest.hexdigest()


def _is_repeatable(request: dict[str, Any]) -> bool:
    temperature, seed = request.get("temperature"), request.get("seed")
    greedy = isinstance(temperature, int | float) and not isinstance(temperature, bool) and temperature == 0
    return greedy or (isinstance(seed, int) and not isinstance(seed, bool))


def _names_urls(value: Any, place: str = "") -> bool:
    """Whether a medium is named by its address, instead of being in the request."""
    if isinstance(value, str):
        return place in _PLACES_OF_MEDIA and value.lstrip()[:8].lower().startswith(("http:", "https:", "file:"))
    if isinstance(value, list):
        return any(_names_urls(each, place) for each in value)
    if isinstance(value, dict):
        return any(_names_urls(each, name) for name, each in value.items())
    return False
