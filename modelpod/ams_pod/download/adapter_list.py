"""A list of LoRA adapters that changes: each is fetched alone, and what became of each is told in a file for `serve`.

One that can't be had stands in nobody's way: its entry says why, and keeps what was there under its name before.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
from ams_common.adapters import (
    LINKS,
    RANK_FILE,
    STATE_FILE,
    AdapterSettings,
    AdapterState,
    AdapterStates,
    asked_digest,
)
from ams_common.engines.names import EngineName
from ams_common.hub_files import UnusableFiles
from ams_common.lock import lock_status
from ams_common.outside import InvalidJson, read_json
from ams_common.progress import Failure
from ams_common.reasons import Reason

from ams_pod.contents import contents_of
from ams_pod.download.adapters import FetchedAdapter, rank_to_make_room_for, read_settings
from ams_pod.download.failures import Failed, volume_refused
from ams_pod.download.manifest import read_manifest
from ams_pod.layout import OutsideRoot
from ams_pod.weights_link import write_beside_links

Fetch = Callable[[AdapterSettings], FetchedAdapter]
"""Brings one adapter here. Failed, UnusableFiles, OutsideRoot or OSError."""


def read_list(path: Path, engine: EngineName) -> tuple[AdapterSettings, ...]:
    """The list as it is now. Failed for one that can't be read, OSError."""
    return read_settings(path.read_text(encoding="utf-8", errors="replace"), engine)


def read_states(link_dir: Path) -> dict[str, AdapterState]:
    """By name, as they were written last; none where nothing that can be read was."""
    try:
        found = read_json((link_dir / LINKS / STATE_FILE).read_bytes(), AdapterStates)
    except (OSError, InvalidJson):
        return {}
    return {each.name: each for each in found.adapters}


def write_states(link_dir: Path, states: Sequence[AdapterState], engine: EngineName) -> None:
    """With the rank that an engine which starts is to make room for. OSError."""
    rank = rank_to_make_room_for([each.rank for each in states], engine)
    write_beside_links(link_dir, RANK_FILE, str(rank).encode())
    write_beside_links(link_dir, STATE_FILE, msgspec.json.encode(AdapterStates(list(states))))


def kept(wanted: Sequence[AdapterSettings], before: Mapping[str, AdapterState]) -> list[AdapterState]:
    """What is known of a list before anything is fetched, in its order: of those that were there already."""
    return [before[each.name] for each in wanted if each.name in before]


def missing(wanted: Sequence[AdapterSettings], states: Mapping[str, AdapterState]) -> list[AdapterSettings]:
    """Those of which nothing is known as they are asked for now."""
    return [each for each in wanted if (state := states.get(each.name)) is None or state.asked != asked_digest(each)]


def fetched(
    adapter: AdapterSettings, fetch: Fetch, before: AdapterState | None, folder: str, redact: Callable[[str], str]
) -> AdapterState:
    """What becomes of one. `before` is its entry until now, `folder` where weights are kept; `redact` takes secrets out
    of sentences."""
    try:
        return _state(adapter, fetch(adapter))
    except (Failed, UnusableFiles) as error:
        failure = error.failure
    except OutsideRoot as error:
        failure = Failure(Reason.INVALID_SOURCE, str(error))
    except OSError as error:
        failure = volume_refused(folder, error).failure
    except Exception as error:
        sentence = (str(error).splitlines() or [""])[0]
        failure = Failure(Reason.DOWNLOAD_FAILED, f"Unexpected {type(error).__name__}: {sentence}")
    told = msgspec.structs.replace(failure, message=redact(failure.message)[:_LONGEST])
    if before is None:
        return AdapterState(adapter.name, asked_digest(adapter), failure=told)
    return msgspec.structs.replace(before, asked=asked_digest(adapter), failure=told)


def _state(adapter: AdapterSettings, found: FetchedAdapter) -> AdapterState:
    contents = contents_of(found.path)
    manifest = read_manifest(found.folder)
    digests = manifest.digests() if manifest is not None else {}
    files = {name: digest for name, digest in digests.items() if digest is not None}
    return AdapterState(
        adapter.name,
        asked_digest(adapter),
        str(found.path.absolute()),
        hashlib.sha256(msgspec.json.encode([str(found.path), contents])).hexdigest()[:16],
        found.rank,
        lock_status(files) if files else None,
    )


_LONGEST = 1000  # characters of a sentence
