"""Keys in a Secret, followed through the API server: a mounted Secret changes up to a minute and a half later."""

import base64
import binascii

import msgspec
from ams_kube.kinds import Kind
from ams_kube.objects import Metadata

from ams_gateway.auth.keys import Keys

ENTRY = "keys.json"


class Secret(msgspec.Struct, frozen=True):
    """A Secret, as far as keys go."""

    metadata: Metadata
    data: dict[str, str] | None = None


SECRETS: Kind[Secret] = Kind("v1", "Secret", "secrets", Secret)


class KeySecret:
    """What a watch of one Secret tells `keys`."""

    def __init__(self, keys: Keys, namespace: str, name: str) -> None:
        self.namespace, self.name = namespace, name
        self._keys = keys
        self._place = f"The Secret {namespace}/{name}"

    def take(self, secret: Secret) -> None:
        if secret.metadata.name != self.name:
            return
        text = (secret.data or {}).get(ENTRY)
        if text is None:
            self._keys.broken(self._place, f"has no entry {ENTRY}")
            return
        try:
            document = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            self._keys.broken(self._place, f"has an entry {ENTRY} that is not base64")
            return
        self._keys.take(document, self._place)

    def note_listed(self) -> None:
        """The API server told all that there is."""
        if not self._keys.loaded:
            self._keys.broken(self._place, "doesn't exist yet")

    def forget(self, key: str) -> None:
        """It was deleted; the keys that were in it hold on, as one that is deleted by mistake must not lock all out."""
        self._keys.broken(self._place, "doesn't exist")
