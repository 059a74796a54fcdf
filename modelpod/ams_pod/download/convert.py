"""GGUF to safetensors, or to what prompts need beside it, in a process of its own: torch never enters this one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from ams_common.lifecycle import Phase
from ams_common.outside import read_json
from ams_common.progress import Failure
from ams_common.reasons import Reason

from ams_pod.download.failures import Failed
from ams_pod.download.lease import FolderLease
from ams_pod.download.manifest import CONVERSION, hash_file
from ams_pod.download.partial import Partial
from ams_pod.download.progress import Tracker

_CONVERTER = "ams_pod.engines.builtin.model.gguf"
_DESCRIBER = "ams_pod.engines.builtin.gguf_prompts"
_QUIET = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TQDM_DISABLE": "1",
}


def convert(gguf: Path, partial: Partial, lease: FolderLease, tracker: Tracker) -> None:
    """Convert the file into `partial` and record the result. Failed, FolderLeaseLost or OSError."""
    tracker.begin(Phase.CONVERTING, message=f"{gguf.name} to safetensors")
    _make(_CONVERTER, gguf, partial, lease, CONVERSION)


def describe(gguf: Path, partial: Partial, lease: FolderLease, tracker: Tracker) -> None:
    """Put tokenizer and configuration of a file that an engine reads itself into `partial`. Raises as `convert`."""
    tracker.begin(Phase.CONVERTING, message=f"tokenizer of {gguf.name}")
    _make(_DESCRIBER, gguf, partial, lease, 0)


def _make(module: str, gguf: Path, partial: Partial, lease: FolderLease, conversion: int) -> None:
    lease.check()
    made = partial.input / "converted"
    shutil.rmtree(made, ignore_errors=True)
    _run(module, gguf, made, lease)
    digests = {}
    for path in sorted(made.rglob("*")):
        if path.is_file():
            path.chmod(0o644)  # safetensors makes files that only their owner may read
            digests[path.relative_to(made).as_posix()] = hash_file(path)
    lease.check()
    for file in digests:
        target = partial.place(file)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(made / file, target)
    partial.record(digests, conversion=conversion)


def _run(module: str, gguf: Path, folder: Path, lease: FolderLease) -> None:
    environment = {
        name: value for name, value in os.environ.items() if name not in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
    }
    end, held = os.pipe()  # the child ends when `held` closes, however this process dies
    try:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", module, str(gguf), str(folder)],
            stdin=end,
            stdout=subprocess.PIPE,
            env={**environment, **_QUIET},
        )
    except BaseException:
        os.close(held)
        raise
    finally:
        os.close(end)
    try:
        while True:
            try:
                output, _ = child.communicate(timeout=0.2)
                break
            except subprocess.TimeoutExpired:
                lease.hold()
    finally:
        os.close(held)
        if child.poll() is None:
            child.kill()
            child.communicate()
    if child.returncode != 0:
        raise _failed(gguf.name, child.returncode, output)


def _failed(name: str, status: int, output: bytes) -> Failed:
    for line in reversed(output.splitlines()):
        try:
            return Failed.of(read_json(line, Failure))
        except ValueError:  # another line, or a reason that isn't known
            continue
    if status == -9:
        return Failed(
            Reason.CONVERSION_FAILED,
            f"Converting {name} was killed, most likely for lack of memory: it holds the whole model. Give the download"
            " more memory, or take the model as safetensors.",
        )
    return Failed(
        Reason.CONVERSION_FAILED, f"Converting {name} ended with status {status}; its output above says more."
    )
