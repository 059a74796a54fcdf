"""Nothing is counted and everything let in."""

from collections.abc import Mapping

from ams_common.keys import Policy

_NO_HEADERS: Mapping[str, str] = {}


class _Admitted:
    headers = _NO_HEADERS

    def settle(self, tokens: int | None) -> None:
        pass


_ADMITTED = _Admitted()


class Unlimited:
    """A `Limiter` for a gateway without limits."""

    async def admit(self, policy: Policy, tokens: int) -> _Admitted:
        return _ADMITTED
