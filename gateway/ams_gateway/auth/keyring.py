"""Which key is whose: pure, over one version of the keys."""

import hmac
from enum import StrEnum

from ams_common.keys import ANONYMOUS_ID, KeyFile, Policy, Principal, digest_of


class Known(StrEnum):
    """Why a key doesn't open."""

    UNKNOWN = "unknown"
    EXPIRED = "expired"


class Keyring:
    """The keys of one file or Secret, found by their hash: how long that takes tells nothing of any key."""

    def __init__(self, file: KeyFile) -> None:
        self.keys = file.keys
        self.names = {ANONYMOUS_ID: ANONYMOUS_ID, **{key.id: key.name for key in file.keys}}
        self._by_digest: dict[bytes, tuple[bytes, Principal]] = {}
        for key in file.keys:
            policy = Policy(**{name: getattr(key, name) for name in Policy.__struct_fields__})
            for secret in key.secrets:
                digest = bytes.fromhex(secret.sha256)
                self._by_digest[digest] = (digest, Principal(policy, secret.expires))

    def __len__(self) -> int:
        return len(self.keys)

    def find(self, key: str, now: float) -> Principal | Known:
        """Whose key it is; `now` is Unix time in seconds."""
        given = digest_of(key)
        found = self._by_digest.get(given)
        if found is None or not hmac.compare_digest(found[0], given):
            return Known.UNKNOWN
        principal = found[1]
        if principal.expires is not None and principal.expires <= now:
            return Known.EXPIRED
        return principal
