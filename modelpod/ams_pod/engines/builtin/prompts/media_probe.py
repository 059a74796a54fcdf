"""The prompt with media that a model is checked with when it is loaded: the smallest that holds all it takes."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ams_pod.engines.builtin.prompts.media_prompts import MediaPrompts
from ams_pod.engines.port import Prepared
from ams_pod.media.items import Audio, Image, Media, Video, content_part

PROBE_CONTEXT = 4096
"""Tokens that the prompts of a probe may have, whatever the model is served with."""

_AUDIO_SECONDS = 0.3


@dataclass(frozen=True, slots=True, eq=False)
class MediaProbe:
    """A prompt as our side prepares it, and the inputs of the model's own forward for the same.

    The inputs are what the processor makes of each medium by itself, around the ids of the whole prompt. `start` is
    the index of its first medium, `end` that behind its last.
    """

    prepared: Prepared
    inputs: dict[str, Tensor]
    start: int
    end: int


def media_probe(prompts: MediaPrompts, side: int = 0, audio_rate: int = 16_000) -> MediaProbe:
    """One of each kind that the model takes, pictures of `side` × `side` pixels.

    EngineRefusal if its chat template has no place for them.
    """
    items = [_item(kind, side, audio_rate) for kind in prompts.expander.placeholders]
    prepared = prompts.chat(
        [{"role": "user", "content": [*map(content_part, items), {"type": "text", "text": "What?"}]}]
    )
    ids = torch.tensor([list(prepared.ids)])
    inputs: dict[str, Tensor] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    for item, start, end in zip(items, prepared.media.starts, prepared.media.ends, strict=True):
        made = prompts.expander.process(item)
        for name, value in made.items():
            if name == "mm_token_type_ids":
                inputs.setdefault(name, torch.zeros_like(ids))[:, start:end] = value
            elif name not in inputs and isinstance(value, Tensor):
                inputs[name] = value
    return MediaProbe(prepared, inputs, prepared.media.starts[0], prepared.media.ends[-1])


def _item(kind: str, side: int, audio_rate: int) -> Media:
    random = np.random.default_rng(0)
    frames = random.integers(0, 255, (2, max(1, side), max(1, side), 3), np.uint8)
    made: dict[str, Any] = {
        "image": Image(frames[0], fitted=True),
        "video": Video(frames, (0.0, 1.0), 2.0, fitted=True),
        "audio": Audio(random.uniform(-0.3, 0.3, int(_AUDIO_SECONDS * audio_rate)).astype(np.float32), audio_rate),
    }
    item: Media = made[kind]
    return item
