"""What a request waited for until its first token: seconds by cause. Pure accounting."""

from dataclasses import dataclass, field
from typing import Literal, get_args

Cause = Literal["pool", "media", "preparing", "step", "towers", "media-towers", "slot", "others", "own-key", "reading"]
"""`pool`: behind others in front of the threads that decode and prepare. `media`: until its media were decoded.
`preparing`: until its prompt was made. `step`: until the running step, or a layer of it, ended. `towers`: while media
of others were encoded, `media-towers`: its own. `slot`: for a place in the batch. `others` and `own-key`: while steps
read prompts of other keys, and other prompts of its own. `reading`: while its own prompt was read."""

CAUSES: tuple[Cause, ...] = get_args(Cause)


@dataclass(slots=True)
class Waits:
    """Of one request: `since` when the next interval counts (monotonic seconds)."""

    since: float
    seconds: dict[Cause, float] = field(default_factory=dict)

    def note(self, cause: Cause, now: float) -> None:
        """Since the last note it waited for this."""
        self.seconds[cause] = self.seconds.get(cause, 0.0) + now - self.since
        self.since = now

    def __str__(self) -> str:
        return " ".join(f"{cause}={seconds:.4f}" for cause, seconds in self.seconds.items())
