"""What a pod counts of its requests, in plain numbers, on the event loop: a token costs some hundred nanoseconds."""

from collections import Counter
from typing import Final, Literal

from ams_common.histogram import Histogram

TOKEN_SECONDS: Final = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2, 5)
REQUEST_SECONDS: Final = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600)
STARTUP_SECONDS: Final = (1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600)
_TOKENS: Final = tuple(1 << power for power in range(18))  # 1 to 131,072

StartupStep = Literal["load", "warm-up", "first-answer"]
"""`load`: from the process' start until the weights are in place. `warm-up`: from then until the model is ready.
`first-answer`: from the process' start until the first request was answered."""

Ending = Literal["stop", "length", "abort", "error"]
"""Why a generation ended, in vLLM's words. `abort`: the client left, or its time was up. `error`: the model failed."""


class RequestCounts:
    """Histograms are of seconds, and of tokens."""

    def __init__(self) -> None:
        self.duration = Histogram(REQUEST_SECONDS)  # whole requests
        self.queue_wait = Histogram(REQUEST_SECONDS)  # acceptance to the first work
        self.first_token = Histogram(REQUEST_SECONDS)  # acceptance to the first token
        self.prefill = Histogram(REQUEST_SECONDS)  # first work to the first token
        self.decode = Histogram(REQUEST_SECONDS)  # first token to the last one
        self.inter_token = Histogram(TOKEN_SECONDS)
        self.prompt_tokens = Histogram(_TOKENS)  # of generations that ended
        self.generation_tokens = Histogram(_TOKENS)
        self.generated = 0  # tokens, as they come
        self.endings: Counter[Ending] = Counter({"stop": 0, "length": 0, "abort": 0, "error": 0})
        self.startup: dict[StartupStep, Histogram] = {}

    def note_startup(self, step: StartupStep, seconds: float) -> None:
        """Once each."""
        if step not in self.startup:
            self.startup[step] = Histogram(STARTUP_SECONDS)
            self.startup[step].observe(seconds)
