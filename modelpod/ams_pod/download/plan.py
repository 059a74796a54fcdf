"""Which files of a model are fetched, and whether they fit. Pure: listings in, decisions or `Failed` out."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from ams_pod.download.failures import Failed, disk_full
from ams_pod.layout import MANIFEST, is_gguf

INDEX = "model.safetensors.index.json"
PICKLE_INDEX = "pytorch_model.bin.index.json"

# What tokenizers, processors and configurations are kept in.
_READ = (".json", ".jinja", ".model", ".txt", ".tiktoken", ".vocab")
_READ_FOLDERS = ("additional_chat_templates",)
_NEVER_READ = frozenset(
    {
        MANIFEST,  # our own name
        "trainer_state.json",
        "all_results.json",
        "train_results.json",
        "eval_results.json",
        "requirements.txt",
    }
)
_PICKLED = (".bin", ".pt", ".pth", ".ckpt")
# Pickles beside the weights that hold no weights: the state of a training run.
_TRAINING_STATE = re.compile(r"(optimizer|scheduler|scaler|rng_state\w*|training_args|spk_dict)\.(bin|pt|pth)")
# A second copy of the weights in the layout of another program.
_OTHER_LAYOUT = re.compile(r"(consolidated|adapter_model)[-.\w]*\.safetensors")

# Beside the bytes of the files: file system metadata, manifest, journal.
_SPARE_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a listing. `size` is in bytes; `sha256` is known for large files, `blob_id` (git's sha1) for others."""

    path: str
    size: int | None
    sha256: str | None = None
    blob_id: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be transferred. `total_bytes` counts what is there already, `missing_bytes` does not."""

    files: tuple[RemoteFile, ...]
    total_bytes: int
    missing_bytes: int


def choose_files(
    listing: Iterable[RemoteFile], *, where: str, gguf: str | None, index: bytes | None, allow_pickle: bool
) -> tuple[RemoteFile, ...]:
    """The files that the runtime reads, weights last.

    `where` names the source in messages, `gguf` is the one file that the source asks for, `index` the content of
    model.safetensors.index.json if the listing has one. Failed (InvalidSource, PickledWeights) if no model is there.
    """
    files = {file.path: file for file in listing}
    for path in files:
        if path.startswith("/") or "\\" in path or "\0" in path or ".." in path.split("/"):
            raise Failed("InvalidSource", f"{where} lists a file outside its folder ({path!r}); nothing was fetched.")
    if gguf is not None:
        return (_named_gguf(files, gguf, where),)
    weights = _weights(files, where, index, allow_pickle)
    if "config.json" not in files:
        raise Failed("InvalidSource", f"{where} has no config.json: it isn't a model that this runtime can load.")
    indexes = {INDEX, PICKLE_INDEX} & files.keys() if _is_pickled(weights[0]) else {INDEX} & files.keys()
    small = [path for path in files if _is_read(path) or path in indexes]
    return tuple(files[path] for path in [*sorted(small), *sorted(weights)])


def plan_download(
    files: Sequence[RemoteFile], present: Mapping[str, int], *, folder: str, free_bytes: int, extra_bytes: int = 0
) -> Plan:
    """The transfer of `files`, of which `present` bytes are there per path. Failed (DiskFull) if it can't fit.

    `extra_bytes` is what later steps need beside the files.
    """
    total = sum(file.size or 0 for file in files)
    missing = sum(max(0, (file.size or 0) - present.get(file.path, 0)) for file in files)
    needed = missing + extra_bytes
    if needed and needed + _SPARE_BYTES > free_bytes:
        raise disk_full(folder, needed=needed + _SPARE_BYTES, free=free_bytes)
    return Plan(tuple(files), total, missing)


def parse_lock(text: str) -> dict[str, str]:
    """The lock setting: a JSON object of file to sha256. Failed (InvalidLock) if it is something else."""
    if not text.strip():
        return {}
    try:
        lock = msgspec.json.decode(text, type=dict[str, str])
    except msgspec.DecodeError as error:
        raise Failed("InvalidLock", f"spec.model.lock must be a JSON object of file to sha256: {error}.") from None
    for path, digest in lock.items():
        if not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
            raise Failed("InvalidLock", f"spec.model.lock: the sha256 of {path} must be 64 hexadecimal digits.")
    return {path: digest.lower() for path, digest in lock.items()}


def check_lock(lock: Mapping[str, str], digests: Mapping[str, str | None], *, complete: bool = True) -> None:
    """Compare files with the lock; Failed (LockMismatch) names the first that differs.

    `digests` maps each file to its sha256, None where it isn't known yet. With `complete`, locked files must be
    there. Weights that the lock doesn't name are a mismatch too: they would be served unpinned.
    """
    if not lock:
        return
    for path, wanted in sorted(lock.items()):
        if path not in digests:
            if complete:
                raise _mismatch(f"{path} is locked but not part of the model")
        elif (found := digests[path]) is not None and found != wanted:
            raise _mismatch(f"{path} has sha256 {found}, the lock says {wanted}")
    for path in sorted(digests):
        if path not in lock and is_weights(path):
            raise _mismatch(f"{path} holds weights but the lock doesn't name it")


def is_weights(path: str) -> bool:
    return path.endswith(".safetensors") or is_gguf(path) or _is_pickled(path)


def _mismatch(what: str) -> Failed:
    return Failed("LockMismatch", f"{what}; nothing is served. Update spec.model.lock if the change is wanted.")


def _named_gguf(files: Mapping[str, RemoteFile], name: str, where: str) -> RemoteFile:
    if not is_gguf(name):
        raise Failed("InvalidSource", f"{where}: ?file= names a GGUF file, and {name!r} is none.")
    if name not in files:
        others = _some(path for path in files if is_gguf(path))
        raise Failed("InvalidSource", f"{where} has no file {name!r}; its GGUF files: {others or 'none'}.")
    if re.search(r"-\d{5}-of-(?!00001)\d{5}\.gguf$", name.lower()):
        raise Failed("InvalidSource", f"{where}: {name!r} is one part of several; name a GGUF file that is whole.")
    return files[name]


def _weights(files: Mapping[str, RemoteFile], where: str, index: bytes | None, allow_pickle: bool) -> list[str]:
    if INDEX in files and index is not None:
        shards = _shards(index, where)
        if lost := sorted(shards - files.keys()):
            raise Failed("InvalidSource", f"{where} is incomplete: {INDEX} names {_some(lost)}, which isn't there.")
        return sorted(shards)
    if "model.safetensors" in files:
        return ["model.safetensors"]
    top = [path for path in files if "/" not in path]
    tensors = [path for path in top if path.endswith(".safetensors")]
    if own := [path for path in tensors if not _OTHER_LAYOUT.fullmatch(path)]:
        return own
    if pickles := [path for path in top if _is_pickled(path)]:
        if allow_pickle:
            return pickles
        raise Failed(
            "PickledWeights",
            f"{where} has only pickled weights ({_some(pickles)}), which can run code when they are loaded: use a"
            " revision with safetensors, or set AMS_ALLOW_PICKLE=true if you trust its author.",
        )
    if ggufs := [path for path in files if is_gguf(path)]:
        raise Failed("InvalidSource", f"{where} holds GGUF files; name one with ?file=, as {_some(ggufs)}.")
    raise Failed("InvalidSource", f"{where} holds no weights that this runtime can load (safetensors or GGUF).")


def _shards(index: bytes, where: str) -> set[str]:
    try:
        weight_map = msgspec.json.decode(index, type=_Index).weight_map
    except msgspec.DecodeError as error:
        raise Failed("InvalidSource", f"{where}: {INDEX} can't be read ({error}).") from None
    if not weight_map:
        raise Failed("InvalidSource", f"{where}: {INDEX} names no weights.")
    return set(weight_map.values())


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


def _is_read(path: str) -> bool:
    folder, _, name = path.rpartition("/")
    return (
        (not folder or folder in _READ_FOLDERS)
        and name.endswith(_READ)
        and not name.endswith(".index.json")
        and name not in _NEVER_READ
    )


def _is_pickled(path: str) -> bool:
    name = path.rpartition("/")[2]
    return name.endswith(_PICKLED) and not _TRAINING_STATE.fullmatch(name)


def _some(paths: Iterable[str], most: int = 5) -> str:
    names: Collection[str] = sorted(paths)
    return ", ".join(list(names)[:most]) + (", …" if len(names) > most else "")
