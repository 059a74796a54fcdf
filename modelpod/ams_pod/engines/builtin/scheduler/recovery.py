"""What becomes of a batch when a step fails: the suspects fail, or step down where memory ran out; others go on."""

import collections
import logging
from collections.abc import Sequence

from ams_pod.engines.builtin.memory.out_of_memory import drop_frames, is_out_of_memory, release
from ams_pod.engines.builtin.model.batch import Forward
from ams_pod.engines.builtin.scheduler.ladder import Stage
from ams_pod.engines.builtin.scheduler.oom_policy import OomPolicy
from ams_pod.engines.builtin.scheduler.row import Row
from ams_pod.engines.builtin.scheduler.slots import Slots
from ams_pod.engines.port import Ticket, TokenEvent

log = logging.getLogger(__name__)


class Recovery:
    """Changes who is in `slots` and in `waiting` (next first). Nothing of a step that failed was published yet."""

    def __init__(self, forward: Forward, slots: Slots, waiting: collections.deque[Row], oom_policy: OomPolicy) -> None:
        self._forward = forward
        self._slots = slots
        self._waiting = waiting
        self._oom_policy = oom_policy

    def step_failed(self, error: Exception, computed: bool, reading: Sequence[Row], events: list[TokenEvent]) -> None:
        """A step that read prompts of `reading` failed, after all was `computed` or before."""
        if not is_out_of_memory(error):
            if reading:
                self._fail_reading(error, reading, events)
            else:
                self._fail_decoding(error, events)
        elif computed:
            self._start_over_or_step_down(error, "prefill" if reading else "decode", events)
        elif reading:
            self._shrink_reading(error, reading, events)
        else:
            self._shrink_decoding(error, events)

    def slot_failed(self, error: Exception, slot: int, events: list[TokenEvent]) -> None:
        """A step failed on one row, and on no other's: it fails, or steps down where memory ran out; others go on."""
        row = self._slots.at(slot)
        stage: Stage = "prefill" if row.reading else "decode"
        self._slots.vacate(row)
        if not is_out_of_memory(error):
            log.error("a request could not be computed", exc_info=error)
            events.append(TokenEvent(row.ticket, None, "failed", error))
            return
        self._reclaim(error)
        if self._slots.rows():
            self._set_aside([row], stage)
        else:
            self._step_down(row, stage, events)

    def tower_failed(self, ticket: Ticket, error: Exception | None, events: list[TokenEvent]) -> bool:
        """A tower failed on this request's media, and on no other's; True if they may be tried when nothing runs."""
        if error is None or not is_out_of_memory(error):
            log.error("a request's media could not be encoded", exc_info=error)
            events.append(TokenEvent(ticket, None, "failed", error))
            return False
        self._reclaim(error)
        if self._slots:
            self._oom_policy.step_down(ticket, "tower", others=True)
            return True
        self._step_down(Row.of(ticket), "tower", events)
        return False

    def start_over(self, error: Exception) -> None:
        """Nobody knows what the cache holds: all are read again, one by one."""
        self._reclaim(error)
        rows = self._slots.rows()
        self._slots.clear()
        self._forward.reset()
        self._set_aside([row for row in rows if not row.done], "decode")

    def _start_over_or_step_down(self, error: Exception, stage: Stage, events: list[TokenEvent]) -> None:
        """Memory ran out for what was computed. Whoever is alone, and was read anew once, has nothing else to try."""
        rows = [row for row in self._slots.rows() if not row.done]
        if len(rows) != 1 or "shrink" not in rows[0].ticket.rungs:
            self.start_over(error)
            return
        self._reclaim(error)
        self._slots.clear()
        self._forward.reset()
        self._step_down(rows[0], stage, events)

    def _fail_reading(self, error: Exception, reading: Sequence[Row], events: list[TokenEvent]) -> None:
        """The prompts are the suspects: one fails, several are read again one by one."""
        if len(reading) == 1:
            log.error("a prompt could not be read beside %d rows", len(self._slots) - 1, exc_info=error)
            self._slots.vacate(reading[0])
            events.append(TokenEvent(reading[0].ticket, None, "failed", error))
            return
        log.warning("a step with %d prompts failed (%s): they are read one by one", len(reading), type(error).__name__)
        self._read_apart(reading)

    def _fail_decoding(self, error: Exception, events: list[TokenEvent]) -> None:
        """A step of nothing but rows failed: nobody knows whose fault it is, and their cache is lost."""
        running, reading = self._slots.running(), self._slots.reading()
        log.error("a step failed with %d rows", len(running), exc_info=error)
        events.extend(TokenEvent(row.ticket, None, "failed", error) for row in running)
        self._read_apart(reading)
        self._slots.clear()
        self._forward.reset()

    def _shrink_reading(self, error: Exception, reading: Sequence[Row], events: list[TokenEvent]) -> None:
        """Memory ran out where prompts were read: they are read one by one, then with nothing else in the batch."""
        self._reclaim(error)
        if len(reading) > 1:
            for row in reading:
                self._oom_policy.step_down(row.ticket, "prefill", others=True)
            self._read_apart(reading)
            return
        self._slots.vacate(reading[0])
        if self._slots.rows():
            self._set_aside(reading, "prefill")
        else:
            self._step_down(reading[0], "prefill", events)

    def _shrink_decoding(self, error: Exception, events: list[TokenEvent]) -> None:
        """Memory ran out in a step of nothing but rows: the newest is set aside, and the rest goes on."""
        self._reclaim(error)
        newest = max(self._slots.rows(), key=lambda row: row.ticket.submitted_at)
        self._slots.vacate(newest)
        if self._slots.rows():
            self._set_aside([newest], "decode")
        else:
            self._step_down(newest, "decode", events)

    def _read_apart(self, rows: Sequence[Row]) -> None:
        """From the start, each with no other prompt in its step."""
        for row in reversed(rows):
            self._slots.vacate(row)
            row.read, row.own_prefill = 0, True
            self._waiting.appendleft(row)

    def _set_aside(self, rows: Sequence[Row], stage: Stage) -> None:
        """To be read again when nothing else is in the batch, before anybody new."""
        for row in sorted(rows, key=lambda row: row.ticket.submitted_at, reverse=True):
            self._oom_policy.step_down(row.ticket, stage, others=True)
            row.set_aside()
            self._waiting.appendleft(row)

    def _step_down(self, row: Row, stage: Stage, events: list[TokenEvent]) -> None:
        """Memory ran out for a request with nothing else in the batch: what its fallbacks allow."""
        ticket = row.ticket
        rung = self._oom_policy.step_down(ticket, stage, streamed=bool(row.tokens))
        cpu = self._oom_policy.fallbacks.cpu
        if rung == "cpu" and cpu is not None:
            row.set_aside()
            row.own_batch = False
            cpu.take(row)
        elif rung == "text-only" and ticket.prepared.text_only is not None:
            try:
                ticket.prepared = ticket.prepared.text_only()
            except Exception as error:  # a template may refuse messages without media
                events.append(TokenEvent(ticket, None, "failed", error))
                return
            self._waiting.appendleft(Row.of(ticket))
        elif rung == "simplified":
            events.append(TokenEvent(ticket, None, "stop"))
        else:
            refusal = self._oom_policy.refusal(ticket, stage, self._forward.bytes_per_token)
            events.append(TokenEvent(ticket, None, "failed", refusal))

    def _reclaim(self, error: Exception) -> None:
        drop_frames(error)
        release(self._oom_policy.fallbacks.device)
