"""`ams-pod adapters`: fetches LoRA adapters beside a model that is served, as the list of them changes.

Runs until it is told to end. Whatever goes wrong with an adapter is told in its entry, and tried again.
"""

import os
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ams_common.adapters import AdapterSettings, AdapterState
from ams_common.backoff import backoff_seconds
from ams_common.options import parse
from ams_common.pod_settings import DownloadSettings, ServeSettings

from ams_pod.download.adapter_list import missing, read_list, read_states
from ams_pod.download.failures import Failed
from ams_pod.download.fetching import Fetching
from ams_pod.download.main import bring, context_of, end_at_once
from ams_pod.download.progress import Tracker
from ams_pod.download.report import Report, say, say_in
from ams_pod.weights_link import FOLDER

_LOOK_SECONDS = 1.0
_FIRST_RETRY_SECONDS = 15.0
_LONGEST_RETRY_SECONDS = 300.0


@dataclass
class Retries:
    """When an adapter that failed is tried again. Pure but for its own state; times are monotonic seconds."""

    _due: dict[str, tuple[str, int, float]] = field(default_factory=dict)  # name: asked, tries, when

    def due(self, states: Mapping[str, AdapterState], now: float, chance: float) -> list[str]:
        """Those whose time has come, of the ones that failed; another entry of the same name begins anew. `chance` in
        [0, 1) keeps pods apart."""
        found = []
        for name, state in states.items():
            if state.failure is None:
                self._due.pop(name, None)
                continue
            asked, tries, when = self._due.get(name, ("", 0, 0.0))
            if asked != state.asked:
                self._due[name] = (state.asked, 1, now + _wait(1, chance))
            elif now >= when:
                self._due[name] = (asked, tries + 1, now + _wait(tries + 1, chance))
                found.append(name)
        for name in self._due.keys() - states.keys():
            del self._due[name]
        return found


def _wait(tries: int, chance: float) -> float:
    return backoff_seconds(tries, chance, first=_FIRST_RETRY_SECONDS, longest=_LONGEST_RETRY_SECONDS)


class Watcher:
    """Of one list. `look` does what there is to do."""

    def __init__(self, settings: DownloadSettings) -> None:
        self._settings = settings
        self._list, self._link_dir = Path(settings.adapters_file), Path(settings.link_dir)
        self._retries = Retries()
        self._complaint = ""

    def look(self, now: float) -> None:
        """Read the list, and fetch what is new of it or failed some time ago. Never raises."""
        try:
            wanted = read_list(self._list, self._settings.engine)
            states = read_states(self._link_dir)
            again = self._retries.due(states, now, random.random())
            lacking = missing(wanted, states)
            chosen = [each for each in wanted if each in lacking or each.name in again]
            if chosen or [each.name for each in wanted] != list(states):
                self._bring(wanted, chosen)
            self._complaint = ""
        except (Failed, OSError) as error:  # the list, or the place where it is told; what is served stays
            self._complain(str(error))
        except Exception as error:
            self._complain("".join(traceback.format_exception_only(error)).strip())

    def _bring(self, wanted: Sequence[AdapterSettings], chosen: Sequence[AdapterSettings]) -> None:
        tracker = Tracker()
        with Report(self._settings, tracker) as report:
            fetching = Fetching(context_of(self._settings, tracker), report, self._settings.verify == "full")
            bring(wanted, chosen, self._settings, fetching, (self._link_dir / FOLDER).resolve())

    def _complain(self, sentence: str) -> None:
        if sentence != self._complaint:
            self._complaint = sentence
            say(f"the list of adapters: {sentence}")


def run(argv: Sequence[str]) -> int:
    """The whole command; its exit status."""
    settings = parse(
        DownloadSettings,
        "ams-pod adapters",
        argv,
        os.environ,
        "Fetch LoRA adapters beside a model that is served, as their list changes.",
        shared_with=ServeSettings,
    )
    if not settings.adapters_file or not settings.link_dir:
        print("ams-pod adapters: --adapters-file and --link-dir are required", file=sys.stderr)
        return 2
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, end_at_once)
    say_in(settings.log_format)
    watcher = Watcher(settings)
    while True:
        watcher.look(time.monotonic())
        time.sleep(_LOOK_SECONDS)
