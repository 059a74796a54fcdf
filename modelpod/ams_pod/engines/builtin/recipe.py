"""What a family of causal language models says of itself: how it is loaded, prompted, and checked."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from ams_pod.engines.builtin.prompts.media_probe import MediaProbe
from ams_pod.engines.builtin.towers.embedder import MediaEmbedder
from ams_pod.engines.port import Prepared
from ams_pod.engines.prompts.text import TextPrompts


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a family adds. `tokenizer` is that of its texts.

    `prompts` gets the context in tokens; `embedder` the model, None for a family without media. `probe` makes the
    prompt with media that the forward is checked with, and `while_probing` may make the model smaller meanwhile.
    `image_bytes` is what the model's tower takes of memory for a pixel of an image.

    Of a family about whose models nothing is known, `separate_probes` makes the prompts that it is checked with: its
    requests are computed apart, by the model's own forward as `generate` drives it. None for all others.
    """

    family: str
    model_class: Any
    tokenizer: Any
    prompts: Callable[[int], TextPrompts]
    embedder: Callable[[Any], MediaEmbedder] | None = None
    probe: Callable[[], MediaProbe] | None = None
    image_bytes: Callable[[Any], float] | None = None
    separate_probes: Callable[[], Sequence[Prepared]] | None = None
    while_probing: Callable[[Any], AbstractContextManager[None]] = nullcontext
    audio_rate: int = 16_000
