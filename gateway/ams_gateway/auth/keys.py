"""The keys that hold now, wherever they come from: none, a file, or a Secret of the cluster."""

import logging

from ams_common.keys import InvalidKeys, KeyFile, read_keys

from ams_gateway.auth.keyring import Keyring

logger = logging.getLogger("ams_gateway")

_NOBODY = Keyring(KeyFile())


class Keys:
    """`ring` is None while no keys are configured: then everybody may do everything.

    A document that can't be used leaves the last good keys in place, and is told once. Where none was ever good, nobody
    gets in: what should be closed must not be open by a mistake.
    """

    def __init__(self, *, configured: bool = False) -> None:
        self.ring: Keyring | None = _NOBODY if configured else None
        self.loaded = not configured
        self._problem = ""

    def take(self, document: bytes, place: str) -> None:
        """A new version of the document. `place` is where it lies, for the log."""
        try:
            file = read_keys(document)
        except InvalidKeys as error:
            self.broken(place, str(error))
            return
        before = self.ring.keys if self.ring is not None and self.loaded else None
        self.ring, self.loaded, self._problem = Keyring(file), True, ""
        if before != file.keys:
            logger.info("%s: %d keys%s", place, len(file.keys), "" if file.keys else ", so nobody gets in")

    def broken(self, place: str, problem: str) -> None:
        """The document can't be had or used; `problem` is a clause."""
        if problem == self._problem:
            return
        self._problem = problem
        if self.ring is None:
            self.ring = _NOBODY
        held = (
            "the keys read before hold on" if self.loaded and self.ring.keys else "nobody gets in until that is mended"
        )
        logger.error("%s %s: %s", place, problem, held)
