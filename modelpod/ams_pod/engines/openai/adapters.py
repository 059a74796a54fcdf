"""LoRA adapters that come and go while an engine runs: it is asked to load and unload them, as a file tells.

An adapter has its bytes' version in the name that the engine knows it by. So another one of the same name is loaded
beside it and takes its place at once, and the old one goes when the requests that use it have ended.
"""

import asyncio
import contextlib
import logging
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ams_common.adapters import SEPARATOR, AdapterState, AdapterStates
from ams_common.backoff import backoff_seconds
from ams_common.outside import InvalidJson, read_json
from ams_common.reasons import Reason

from ams_pod.engines.openai.dialects.base import Dialect
from ams_pod.engines.openai.http import Address, EngineUnreachable, fetch
from ams_pod.engines.openai.pieces import VERSION_MARK, LoadedAdapter
from ams_pod.engines.port import AdapterStage, AdapterView

log = logging.getLogger(__name__)
_LOAD_SECONDS = 120.0
_UNLOAD_SECONDS = 30.0
_LIST_SECONDS = 10.0
_FIRST_RETRY_SECONDS = 60.0  # of what the engine refused: it may have been short of memory
_LONGEST_RETRY_SECONDS = 900.0
_KEY = re.compile(rf"([a-z0-9-]+){re.escape(VERSION_MARK)}([0-9a-f]{{16}})")

Loaded = Mapping[str, LoadedAdapter]
"""What an engine has loaded, by key, what was loaded last at the end."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the engine didn't load an adapter, how often it was asked, and when it is again, in monotonic seconds."""

    message: str
    tries: int
    again_at: float


def key_of(state: AdapterState) -> str:
    """What the adapter of a state is called, once it is loaded; empty where there is none to load."""
    return LoadedAdapter("", state.name, version=state.version).key if state.path and state.version else ""


def served(states: Sequence[AdapterState], loaded: Loaded) -> dict[str, LoadedAdapter]:
    """By name, what requests for it get: what is asked for, or until that is loaded what was loaded before."""
    result = {}
    for state in states:
        others = [each for each in loaded.values() if each.name == state.name]
        if (found := loaded.get(key_of(state)) or (others[-1] if others else None)) is not None:
            result[state.name] = found
    return result


def to_load(
    states: Sequence[AdapterState], loaded: Loaded, refused: Mapping[str, Refusal], now: float
) -> list[AdapterState]:
    """Those that aren't loaded, but for what the engine refused a moment ago."""
    return [
        state
        for state in states
        if (key := key_of(state)) and key not in loaded and (key not in refused or refused[key].again_at <= now)
    ]


def to_unload(
    states: Sequence[AdapterState], loaded: Loaded, in_use: Callable[[LoadedAdapter], bool]
) -> list[LoadedAdapter]:
    """Those that no request gets any more, once none that got it runs or waits."""
    kept = {each.key for each in served(states, loaded).values()}
    return [each for key, each in loaded.items() if key not in kept and not in_use(each)]


def view_of(state: AdapterState, loaded: Loaded, refused: Mapping[str, Refusal]) -> AdapterView:
    key, given = key_of(state), served([state], loaded).get(state.name)
    stage: AdapterStage = "loading"
    reason = message = ""
    if state.failure is not None:
        stage, reason, message = "failed", state.failure.reason, state.failure.message
    elif key in loaded:
        stage = "ready"
    elif key in refused:
        stage, reason, message = "failed", Reason.LOAD_FAILED, refused[key].message
    if stage == "failed" and given is not None:
        message += " What was served under its name before still is."
    lock = state.lock if state.failure is None else None
    return AdapterView(
        state.name,
        state.asked,
        stage,
        given.version if given is not None else "",
        reason,
        message,
        (lock.files or 0) if lock is not None else 0,
        (lock.sha256 or "") if lock is not None else "",
    )


def retry_seconds(tries: int) -> float:
    return backoff_seconds(tries, 1.0, first=_FIRST_RETRY_SECONDS, longest=_LONGEST_RETRY_SECONDS)


class AdapterFollower:
    """Of one engine, on its loop; `views` may be read from any thread."""

    def __init__(self, path: str, model: str, dialect: Dialect) -> None:
        """`path` is the file that tells which adapters there are; `model` what requests call the model."""
        self.views: tuple[AdapterView, ...] = ()
        self._path, self._model, self._dialect = Path(path), model, dialect
        self._seen: tuple[int, ...] = ()
        self._states: list[AdapterState] = []
        self._loaded: dict[str, LoadedAdapter] = {}
        self._refused: dict[str, Refusal] = {}

    @property
    def served(self) -> dict[str, LoadedAdapter]:
        return served(self._states, self._loaded)

    def read(self) -> bool:
        """Look at the file; whether it says something else than before. One that can't be read changes nothing."""
        try:
            status = os.stat(self._path)
            seen = (status.st_ino, status.st_mtime_ns, status.st_size)
            if seen == self._seen:
                return False
            states = read_json(self._path.read_bytes(), AdapterStates).adapters
        except (OSError, InvalidJson) as error:
            if self._seen:
                log.warning("%s can't be read: %s", self._path, error)
                self._seen = ()
            return False
        self._seen, self._states = seen, states
        self._look()
        return True

    def wants_to_load(self, now: float) -> bool:
        return bool(to_load(self._states, self._loaded, self._refused, now))

    def has_work(self, in_use: Callable[[LoadedAdapter], bool], now: float) -> bool:
        return self.wants_to_load(now) or bool(to_unload(self._states, self._loaded, in_use))

    async def begin(self, address: Address) -> None:
        """Load all into an engine that has just started, or that somebody else had asked. EngineUnreachable if it ends.

        What it doesn't load stands in the way of nothing else.
        """
        self.read()
        self._refused = {}
        self._loaded = await self._listed(address)
        for state in to_load(self._states, self._loaded, {}, 0.0):
            try:
                await self._load(state, address)
            except EngineUnreachable as error:
                if not await self._is_there(address):
                    raise
                self._refuse(state, f"{self._dialect.title} doesn't load it: {error}.")
        self._look()

    async def go_on(
        self,
        address: Address,
        in_use: Callable[[LoadedAdapter], bool],
        changed: Callable[[Mapping[str, LoadedAdapter]], None],
    ) -> None:
        """Load and unload what there is to, beside requests; `changed` is told what is served from now on."""
        for state in to_load(self._states, self._loaded, self._refused, time.monotonic()):
            try:
                await self._load(state, address)
            except EngineUnreachable as error:
                if await self._is_there(address):
                    self._refuse(state, f"{self._dialect.title} doesn't load it: {error}.")
                    continue
                return  # whoever watches it deals with that, and all are loaded again
            finally:
                self._look()
            changed(self.served)
        changed(self.served)
        for adapter in to_unload(self._states, self._loaded, in_use):
            del self._loaded[adapter.key]  # gone from here on, whatever the engine says
            await self._unload(adapter, address)

    async def _load(self, state: AdapterState, address: Address) -> None:
        dialect, adapter = self._dialect, LoadedAdapter(self._model, state.name, version=state.version)
        began = time.monotonic()
        body = dialect.load_body(adapter, state.path)
        answer = await fetch(address, dialect.load_path, method="POST", body=body, seconds=_LOAD_SECONDS)
        if (complaint := dialect.why_not_loaded(answer.status, answer.body, state.rank)) is not None:
            self._refuse(state, complaint)
            return
        self._refused.pop(adapter.key, None)
        self._loaded[adapter.key] = adapter
        log.info("adapter %s is loaded, after %.2f s", adapter.key, time.monotonic() - began)

    async def _unload(self, adapter: LoadedAdapter, address: Address) -> None:
        dialect, body = self._dialect, self._dialect.unload_body(adapter)
        try:
            answer = await fetch(address, dialect.unload_path, method="POST", body=body, seconds=_UNLOAD_SECONDS)
        except EngineUnreachable as error:
            log.warning("adapter %s can't be unloaded: %s", adapter.key, error)
            return
        if answer.status not in (200, 404):
            log.warning("adapter %s can't be unloaded: %s answers %d", adapter.key, dialect.title, answer.status)
        else:
            log.info("adapter %s is unloaded", adapter.key)

    def _refuse(self, state: AdapterState, message: str) -> None:
        before = self._refused.get(key_of(state))
        tries = before.tries + 1 if before is not None else 1
        self._refused[key_of(state)] = Refusal(message, tries, time.monotonic() + retry_seconds(tries))
        log.error("adapter %s isn't served: %s", state.name, message)

    def _look(self) -> None:
        known = {key_of(state) for state in self._states}
        self._refused = {key: each for key, each in self._refused.items() if key in known}
        self.views = tuple(view_of(state, self._loaded, self._refused) for state in self._states)

    async def _listed(self, address: Address) -> dict[str, LoadedAdapter]:
        """What the engine says that it has, of what was loaded by an earlier process of ours. EngineUnreachable."""
        answer = await fetch(address, "/v1/models", seconds=_LIST_SECONDS)
        if answer.status != 200:
            return {}
        names = [each.id for each in self._dialect.models({"/v1/models": answer.body})]
        prefix = f"{self._model}{SEPARATOR}"
        found = [_KEY.fullmatch(name.removeprefix(prefix)) for name in names]
        adapters = [LoadedAdapter(self._model, each[1], version=each[2]) for each in found if each is not None]
        return {each.key: each for each in adapters}

    async def _is_there(self, address: Address) -> bool:
        with contextlib.suppress(EngineUnreachable):
            return (await fetch(address, self._dialect.health_paths[0])).status == 200
        return False


async def stop_following(task: "asyncio.Task[None] | None") -> None:
    """Cancel what a follower does, and wait for its end."""
    if task is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
