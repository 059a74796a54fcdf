"""What an answer says of itself when memory ran out, and the older server's word for how it was made."""

from typing import Any

from ams_pod.engines.port import Degraded, ModelInfo

SIMPLIFIED = (
    "The server is short of memory and could not process this request in full. Please try again later, or with less or "
    "smaller input."
)
_NOTES: dict[Degraded, str] = {
    "cpu": "The GPU ran out of memory: this answer was computed on the CPU.",
    "text-only": "Memory ran out: images, audio and video were left out, and this answer is from the text alone.",
    "simplified": "Memory ran out: this is a fixed answer, not the model's.",
}


def note_of(degraded: Degraded | None) -> str | None:
    """The sentence that a degraded answer carries."""
    return None if degraded is None else _NOTES[degraded]


def marks(degraded: Degraded | None) -> dict[str, Any]:
    """The fields `degraded` and `note` of an answer of OpenAI's API, if it has them."""
    return {} if degraded is None else {"degraded": degraded, "note": _NOTES[degraded]}


def generation_method(info: ModelInfo, media_items: int, degraded: Degraded | None) -> str:
    """`multimodal_gpu` (two or more media), `single_modal_gpu` or `text_gpu`, the same with `_cpu`; or a fallback's."""
    if degraded == "simplified":
        return "emergency_fallback"
    if degraded == "text-only":
        return "gpu_text_only_fallback"
    device = "cpu" if degraded == "cpu" or info.device == "cpu" else "gpu"
    kind = "multimodal" if media_items > 1 else "single_modal" if media_items else "text"
    return f"{kind}_{device}"


def memory_optimized(info: ModelInfo) -> bool:
    """Whether the weights take less memory than at full precision: fewer than 32 bits each."""
    return info.quantization != "none" or info.precision in ("bfloat16", "float16")
