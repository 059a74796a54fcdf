"""What each model is called, among all that there are: one that comes or goes may change the names of others."""

from collections.abc import Callable, Mapping

from ams_common.naming import GivenNames, give_names

from ams_operator.watch.cache import Cache


class NameBook:
    """`changed` gets the key of each model whose names are others than before."""

    def __init__(self, cache: Cache, changed: Callable[[str], None], *, confined: bool) -> None:
        self._cache = cache
        self._changed = changed
        self._confined = confined
        self._version = -1
        self._given: Mapping[str, GivenNames] = {}

    def of(self, key: str) -> GivenNames | None:
        """None for a model that isn't known."""
        self.refresh()
        return self._given.get(key)

    def refresh(self) -> None:
        """Name all models anew, if what they claim has changed."""
        if self._version == self._cache.claims_version:
            return
        self._version = self._cache.claims_version
        before, self._given = self._given, give_names(self._cache.claims(), confined=self._confined).given
        for key, given in self._given.items():
            if key in before and before[key] != given:
                self._changed(key)
