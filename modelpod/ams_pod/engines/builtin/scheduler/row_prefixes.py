"""What requests find of earlier ones' prompts, and leave to later ones."""

import logging
from collections.abc import Sequence

from ams_pod.engines.builtin.model.prefix_tree import common_prefix
from ams_pod.engines.builtin.model.prefixes import Prefixes
from ams_pod.engines.builtin.scheduler.row import Row
from ams_pod.engines.port import EngineCounters

log = logging.getLogger(__name__)


_WORTH_WAITING = 64  # tokens that needn't be read again


class RowPrefixes:
    """A forward's prefixes, by requests; without them nothing is found and nothing is kept.

    Only what was computed without a fault is kept. A prompt whose log-probabilities are asked for is read as a whole.
    """

    def __init__(self, prefixes: Prefixes | None, counters: EngineCounters) -> None:
        self._prefixes = prefixes
        self._counters = counters

    @property
    def tokens(self) -> int:
        """How many are kept."""
        return self._prefixes.tokens if self._prefixes is not None else 0

    def count(self, row: Row) -> int:
        """How many tokens of its prompt are kept. The last one is always read: the answer begins behind it."""
        if self._prefixes is None or not self._may_use(row):
            return 0
        return self._prefixes.count(row.ticket.cache_salt, row.content(len(row.ids) - 1))

    def follows(self, row: Row, reading: Sequence[Row]) -> bool:
        """Whether it begins like one that is being read, much further than what is kept of it: it waits for that."""
        if self._prefixes is None or not self._may_use(row):
            return False
        kept = None
        for other in reading:
            if other is row or other.ticket.cache_salt != row.ticket.cache_salt:
                continue
            common = common_prefix(row.content(len(row.ids) - 1), other.content(len(other.ids)))
            if common >= _WORTH_WAITING:
                kept = self.count(row) if kept is None else kept
                if common - kept >= _WORTH_WAITING:
                    return True
        return False

    def load(self, row: Row) -> None:
        """Into its slot, which has room for its prompt: what is kept of it counts as read."""
        if self._prefixes is None or row.read:
            return
        first = not row.tokens and not row.ticket.rungs and not row.ticket.set_asides
        if first:
            self._counters.prefix_queries += len(row.ids)
        if not self._may_use(row):
            return
        try:
            row.read = self._prefixes.load(row.ticket.cache_salt, row.content(len(row.ids) - 1), row.slot)
        except Exception:  # it is read like any other
            log.exception("what is kept of a prompt could not be used")
            return
        if first:
            self._counters.prefix_hits += row.read
            row.ticket.cached_tokens = row.read

    def keep(self, row: Row) -> None:
        """What its slot holds, for others that begin alike."""
        if self._prefixes is None or row.slot < 0 or not row.sound:
            return
        try:
            self._prefixes.save(row.ticket.cache_salt, row.content(row.cached), row.slot)
        except Exception:  # nobody's request depends on it
            log.exception("a prompt could not be kept for later ones")

    def drop(self) -> None:
        """Give their memory back."""
        if self._prefixes is not None:
            self._prefixes.drop()

    @staticmethod
    def _may_use(row: Row) -> bool:
        return row.ticket.sampling.prompt_logprobs is None
