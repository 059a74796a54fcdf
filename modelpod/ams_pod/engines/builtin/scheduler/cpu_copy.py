"""A copy of the model on the CPU, for requests that the GPU has no memory for. Loaded when it is first needed."""

import collections
import logging
import threading
from collections.abc import Callable

from ams_common.quantity import format_bytes

from ams_pod.engines.builtin.memory.out_of_memory import release
from ams_pod.engines.builtin.scheduler.core import EngineCore
from ams_pod.engines.builtin.scheduler.row import Row
from ams_pod.engines.port import EngineRefusal, Publish, TokenEvent

_IDLE_SECONDS = 300.0  # then its memory is given back

log = logging.getLogger(__name__)


class CpuCopy:
    """A `CpuFallback` with an engine core and a thread of its own; both end when nobody has needed them for a while."""

    def __init__(
        self, load_core: Callable[[], EngineCore], needed_bytes: int, available: Callable[[], int], publish: Publish
    ) -> None:
        """`load_core` is called in a thread of its own. `available` tells the free bytes of RAM."""
        self._load_core, self._needed, self._available, self._publish = load_core, needed_bytes, available, publish
        self._rows: collections.deque[Row] = collections.deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopped = False
        self.compute_seconds = 0.0  # what requests took here, in all

    def fits(self) -> bool:
        with self._changed:
            return self._thread is not None or self._needed <= self._available()

    def take(self, row: Row) -> None:
        with self._changed:
            self._rows.append(row)
            if self._thread is None:
                log.info("a copy of the model, %s, is loaded on the CPU", format_bytes(self._needed))
                self._thread = threading.Thread(target=self._run, name="cpu-copy", daemon=True)
                self._thread.start()
            self._changed.notify()

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            thread = self._thread
            self._changed.notify()
        if thread is not None:
            thread.join(5.0)

    def _run(self) -> None:
        try:
            core = self._load_core()
        except Exception as error:  # whatever it is, the requests must hear of it
            log.error("the model could not be loaded on the CPU", exc_info=error)
            self._fail()
            return
        while self._feed(core):
            while not self._stopped and self._step(core):
                with self._changed:
                    while self._rows:
                        core.adopt(self._rows.popleft())
        core.end()
        del core
        release("cpu")

    def _step(self, core: EngineCore) -> bool:
        before = core.counters.compute_seconds
        try:
            return core.step()
        finally:
            self.compute_seconds += core.counters.compute_seconds - before

    def _feed(self, core: EngineCore) -> bool:
        """Hand over what came; wait for it a while. False when it is time to end."""
        with self._changed:
            if not self._rows and not self._stopped:
                self._changed.wait(_IDLE_SECONDS)
            if self._stopped or not self._rows:
                self._thread = None
                return False
            while self._rows:
                core.adopt(self._rows.popleft())
            return True

    def _fail(self) -> None:
        with self._changed:
            rows = list(self._rows)
            self._rows.clear()
            self._thread = None
        sentence = "The GPU's memory ran out, and the model could not be loaded on the CPU for this request."
        self._publish(
            [TokenEvent(row.ticket, None, "failed", EngineRefusal("out-of-memory", sentence)) for row in rows]
        )
