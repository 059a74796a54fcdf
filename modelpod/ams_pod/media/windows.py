"""A long recording in windows that a model hears one by one, cut where it is quiet."""

import numpy as np

from ams_pod.media.items import Samples

LONGEST_SECONDS = 30.0
"""What models hear at once, at least Whisper's descendants: a longer window would be cut by them, or heard worse."""

_SEARCH_SECONDS = 6.0  # of a window's end, in which the quietest place is looked for
_PLACE_SECONDS = 0.2  # how long a quiet place is


def windows(samples: Samples, rate: int, longest: float = LONGEST_SECONDS) -> list[tuple[int, int]]:
    """(start, end) of each window in samples, without gaps. At least one; each but the last of 24 to 30 seconds."""
    most = int(longest * rate)
    found = []
    start = 0
    while len(samples) - start > most:
        end = _quietest(samples, start + most - int(min(_SEARCH_SECONDS, longest / 2) * rate), start + most, rate)
        found.append((start, end))
        start = end
    return [*found, (start, len(samples))]


def _quietest(samples: Samples, begin: int, end: int, rate: int) -> int:
    """The middle of the quietest place between `begin` and `end`; the latest of several."""
    place = max(1, int(_PLACE_SECONDS * rate))
    count = (end - begin) // place
    energy = np.square(samples[end - count * place : end].reshape(count, place), dtype=np.float64).sum(1)
    last = count - 1 - int(np.argmin(energy[::-1]))
    return end - count * place + last * place + place // 2
