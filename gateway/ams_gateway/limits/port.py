"""What the routes ask of limits, whoever keeps count: this gateway alone, or all gateways by Redis."""

from collections.abc import Mapping
from typing import Protocol

from ams_common.keys import Policy


class Admission(Protocol):
    """A request that was let in. `settle` it exactly once, whatever becomes of it."""

    @property
    def headers(self) -> Mapping[str, str]:
        """`X-RateLimit-*` of the answer, as OpenAI names them; none where nothing is limited."""

    def settle(self, tokens: int | None) -> None:
        """The request ended and used so many tokens, prompt and answer together; None: it never reached a pod.

        What was reserved and not used is given back, what was used beyond is taken, the place of a concurrent request
        is free again. Never blocks: what others must learn of it follows in the background.
        """


class Limiter(Protocol):
    """Keeps count. All methods run on the gateway's event loop."""

    async def admit(self, policy: Policy, tokens: int) -> Admission:
        """Let a request in that asks for `tokens` at most, prompt and answer together.

        A request that asks for more than its minute ever holds is let in when the minute is full. ApiError
        `rate_limited` with `Retry-After` and `X-RateLimit-*`, or `token_limit` when the month's tokens are used up. A
        store that is slow or away never makes this fail or take long: then this gateway's own share of limits holds.
        """
