"""What the audio-language and the omni family share about audio."""

import numpy as np
import torch
from torch import Tensor

from ams_pod.media.items import Samples

SECONDS_PER_CALL = 60.0
"""Bound of one call of an audio tower, in seconds of audio."""

TOWER = "audio"

_LEAST_FRAMES = 3  # of a spectrogram; fewer give no token


def frames_of(samples: int, hop: int) -> int:
    """Frames of the spectrogram of so many samples."""
    return max(_LEAST_FRAMES, -(-samples // hop))


def positions_of(frames: int) -> int:
    """Positions in an encoder of Qwen's, behind the convolution that halves so many frames."""
    return (frames - 1) // 2 + 1


def tokens_of(frames: int) -> int:
    """Tokens that an encoder of Qwen's makes of so many frames: two halvings, by convolution and by pooling."""
    return (positions_of(frames) - 2) // 2 + 1


def divide(samples: Samples, longest: int, rate: int) -> list[Samples]:
    """Clips of at most `longest` samples that follow each other.

    A rest of less than a second is no clip of its own, which a model would hear without what it belongs to: it shares
    the last two clips' time evenly.
    """
    ends = list(range(longest, len(samples), longest))
    if ends and len(samples) - ends[-1] < min(rate, longest):
        start = ends[-1] - longest
        ends[-1] = start + -(-(len(samples) - start) // 2)
    return np.split(samples, ends)


def long_enough(samples: Samples, hop: int) -> Samples:
    """The samples, with silence behind them where they would give no token."""
    return np.pad(samples, (0, max(0, _LEAST_FRAMES * hop - len(samples))))


def stack(features: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Spectrograms [bins, frames] as one [clips, bins, frames], and its mask [clips, frames]."""
    lengths = torch.tensor([each.shape[1] for each in features])
    padded = torch.nn.utils.rnn.pad_sequence([each.T for each in features], batch_first=True).transpose(1, 2)
    return padded, (torch.arange(padded.shape[2])[None] < lengths[:, None]).long()
