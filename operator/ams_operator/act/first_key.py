"""The first API key of a release: a Secret that is made once, and never touched when it is there.

Whoever may read the Secret finds the key itself in its entry `first-key`; gateways read `keys.json`, which has its
sha256. The Secret has no owner and no release: upgrades, GitOps and a reinstallation leave it.
"""

import asyncio
import logging
import random
import secrets
import time
from base64 import b64encode
from collections.abc import Callable
from typing import Any

from ams_common import labels
from ams_common.backoff import backoff_seconds
from ams_common.key_changes import FIRST_KEY_ENTRY, ID_BYTES, KEY_BYTES, KEYS_ENTRY, first_file
from ams_common.keys import write_keys
from ams_kube.client import Client
from ams_kube.errors import AlreadyExists, KubeError, NotFound
from ams_kube.objects import SECRETS

log = logging.getLogger(__name__)

_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 1.0, 60.0
_LOOK_SECONDS = 60.0  # one that was deleted is made anew, with another key


class FirstKey:
    """`run` while this operator leads; `where` is `namespace/name` of the Secret."""

    def __init__(self, client: Client, where: str) -> None:
        self._client = client
        self._namespace, _, self._name = where.partition("/")

    async def run(self) -> None:
        failures = 0
        while True:
            try:
                await self.ensure()
                failures = 0
                await asyncio.sleep(_LOOK_SECONDS)
            except KubeError as error:
                failures += 1
                log.warning(
                    "the Secret %s/%s with a first API key can't be made, and gateways refuse requests without it: %s",
                    self._namespace,
                    self._name,
                    error,
                )
                wait = backoff_seconds(
                    failures, random.random(), first=_FIRST_WAIT_SECONDS, longest=_LONGEST_WAIT_SECONDS
                )
                await asyncio.sleep(wait)

    async def ensure(self) -> None:
        """Make the Secret if it isn't there. KubeError."""
        try:
            await self._client.get(SECRETS, self._namespace, self._name)
            return
        except NotFound:
            pass
        body = secret_object(self._name, secrets.token_bytes, time.time())
        try:
            await self._client.create(SECRETS, self._namespace, body)
        except AlreadyExists:
            return
        log.info(
            "made the Secret %s/%s with a first API key, which is in its entry %s",
            self._namespace,
            self._name,
            FIRST_KEY_ENTRY,
        )


def secret_object(name: str, chance: Callable[[int], bytes], now: float) -> dict[str, Any]:
    """`chance` gives so many random bytes."""
    key, file = first_file(chance(KEY_BYTES), chance(ID_BYTES), now)
    return {
        "metadata": {
            "name": name,
            "labels": {labels.MANAGED_BY: labels.MANAGER, "app.kubernetes.io/part-of": "ai-model-server"},
        },
        "type": "Opaque",
        "data": {
            KEYS_ENTRY: b64encode(write_keys(file)).decode(),
            FIRST_KEY_ENTRY: b64encode(key.encode()).decode(),
        },
    }
