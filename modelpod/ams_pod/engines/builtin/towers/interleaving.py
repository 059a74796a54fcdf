"""How pictures and sound of a video take turns in a prompt of Qwen2.5-Omni."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Run:
    """Tokens `start` to `end` of the pictures, or of the sound, of a video."""

    pictures: bool
    start: int
    end: int


def interleaved(times: Sequence[int], per_frame: int, sound_tokens: int, per_chunk: int) -> tuple[Run, ...]:
    """The order of a video's tokens, chunk by chunk of its time: first its pictures, then its sound.

    `times` are those of the patches in time, in tokens of sound; `per_frame` is how many tokens each of them has.
    Pictures are never divided: transformers' processor goes on by one chunk for each token that lies beyond, so that
    single tokens of a picture are put in front of it where two are more than a chunk apart. Where they aren't, as at
    the authors' two frames a second, this is its order.
    """
    runs = []
    done = 0
    for chunk in range(max([sound_tokens - 1, *times]) // per_chunk + 1):
        until = sum(time < (chunk + 1) * per_chunk for time in times)
        if until > done:
            runs.append(Run(True, done * per_frame, until * per_frame))
            done = until
        start, end = chunk * per_chunk, min((chunk + 1) * per_chunk, sound_tokens)
        if end > start:
            runs.append(Run(False, start, end))
    return tuple(runs)


def times_of(patches: int, seconds: float, per_second: int) -> Tensor:
    """When each patch in time is shown, `seconds` apart, in positions, as the model rounds them."""
    return (torch.arange(patches) * torch.tensor(seconds) * per_second).long()
