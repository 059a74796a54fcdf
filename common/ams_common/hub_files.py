"""Which files of a model are fetched: the one choice that operator, `ams plan` and pod make of a listing. Pure."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import msgspec

from ams_common.outside import InvalidJson, read_json
from ams_common.progress import Failure
from ams_common.reasons import Reason
from ams_common.source import HubSource

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLE_INDEX = "pytorch_model.bin.index.json"
MANIFEST = "manifest.json"  # what a finished folder on the models volume has; a hub's file of this name is never taken

_MOST_NAME_BYTES = 240
_MOST_PATH_BYTES = 2000

# What tokenizers, processors and configurations are kept in.
_READ = (".json", ".jinja", ".model", ".txt", ".tiktoken", ".vocab")
_MOST_INDEX_BYTES = 32 << 20
_READ_FOLDERS = ("additional_chat_templates",)
# Parts of an embedding model beside its transformer, numbered as sentence-transformers does: how it pools, and what
# comes behind that.
_MODULE_FILE = re.compile(r"\d{1,2}_[A-Za-z]{1,40}/(config\.json|model\.safetensors)")
_NEVER_READ = frozenset(
    {
        MANIFEST,
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


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a listing. `size` is in bytes; `sha256` is known for large files, `blob_id` (git's sha1) for others."""

    path: str
    size: int | None
    sha256: str | None = None
    blob_id: str | None = None


class UnusableFiles(Exception):
    """A listing has no model that a pod could serve. `failure` is what the pod's download would end with."""

    def __init__(self, message: str, reason: Reason = Reason.INVALID_SOURCE) -> None:
        super().__init__(message)
        self.failure = Failure(reason, message)


def is_inside(path: str) -> bool:
    """Whether a relative path from outside names a file or folder below the folder that it is joined to.

    Each of its parts is a plain name of at most 240 bytes in UTF-8 (what is put behind a name while it is written makes
    it no longer than file systems take), and there is nothing in it that another system or a terminal reads as more.
    """
    try:
        sizes = [len(part.encode()) for part in path.split("/")]
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    plain = all(part not in ("", ".", "..") for part in path.split("/")) and path.isprintable() and "\\" not in path
    return plain and max(sizes) <= _MOST_NAME_BYTES and sum(sizes) + len(sizes) <= _MOST_PATH_BYTES


def choose_files(
    listing: Iterable[RemoteFile],
    *,
    where: str,
    gguf: str | None,
    index: bytes | None,
    allow_pickle: bool,
    signature: str | None = None,
) -> tuple[RemoteFile, ...]:
    """The files that the runtime reads, weights last, and before them the `signature` that it asks for.

    `where` names the source in messages, `gguf` is the one file that the source asks for. `index` is the content of
    model.safetensors.index.json, None if there is none, or none that can be read, as of a gated model: then all weights
    of the top folder are taken. UnusableFiles (InvalidSource, PickledWeights, SignatureMismatch) if no pod could serve
    what is there.
    """
    files, signatures = _usable(listing, where, signature)
    if gguf is not None:
        return (*signatures, _named_gguf(files, gguf, where))
    weights = _weights(files, where, index, allow_pickle)
    if "config.json" not in files:
        raise UnusableFiles(f"{where} has no config.json: it isn't a model that this runtime can load.")
    indexes = {INDEX, PICKLE_INDEX} & files.keys() if _is_pickled(weights[0]) else {INDEX} & files.keys()
    small = [path for path in files if (_is_read(path) or path in indexes) and path != signature]
    return (*signatures, *(files[path] for path in [*sorted(small), *sorted(weights)]))


def choose_adapter_files(
    listing: Iterable[RemoteFile], *, where: str, gguf: str | None, signature: str | None = None
) -> tuple[RemoteFile, ...]:
    """The files of a LoRA adapter, weights last: PEFT's two, or the GGUF file that the source asks for.

    As `choose_files`; pickled adapters are never taken.
    """
    files, signatures = _usable(listing, where, signature)
    if gguf is not None:
        return (*signatures, _named_gguf(files, gguf, where))
    if ADAPTER_CONFIG not in files:
        ggufs = [path for path in files if is_gguf(path)]
        hint = f"; its GGUF files are named by ?file=: {_some(ggufs)}" if ggufs else ""
        raise UnusableFiles(f"{where} has no {ADAPTER_CONFIG}: it isn't an adapter as PEFT writes it{hint}.")
    if ADAPTER_WEIGHTS not in files:
        if pickles := [path for path in files if "/" not in path and _is_pickled(path)]:
            raise UnusableFiles(
                f"{where} has only a pickled adapter ({_some(pickles)}), which can run code when it is loaded: save it"
                f" as {ADAPTER_WEIGHTS}.",
                Reason.PICKLED_WEIGHTS,
            )
        raise UnusableFiles(f"{where} has no {ADAPTER_WEIGHTS}.")
    return (*signatures, files[ADAPTER_CONFIG], files[ADAPTER_WEIGHTS])


def _usable(
    listing: Iterable[RemoteFile], where: str, signature: str | None
) -> tuple[dict[str, RemoteFile], tuple[RemoteFile, ...]]:
    """(the files of a listing that may be written, by path; the one of the signature). UnusableFiles."""
    listed = {file.path: file for file in listing}
    for path in listed:
        if path.startswith("/") or "\\" in path or "\0" in path or ".." in path.split("/"):
            raise UnusableFiles(f"{where} lists a file outside its folder ({ascii(path)[:300]}); nothing was fetched.")
    files = {path: file for path, file in listed.items() if is_inside(path)}
    for path in files:
        if parent := next((parent for parent in _parents(path) if parent in files), None):
            raise UnusableFiles(f"{where} lists {parent!r} as a file and as a folder; nothing was fetched.")
    if signature is not None and signature not in files:
        raise UnusableFiles(
            f"{where} has no {signature}, which spec.model.signature asks for; nothing is served.",
            Reason.SIGNATURE_MISMATCH,
        )
    signatures = (files[signature],) if signature is not None else ()
    return files, signatures


def described(source: HubSource, commit: str) -> str:
    """How messages name a listing of the hub: `hf://owner/name@0123456789ab`."""
    return f"hf://{source.repository}@{commit[:12]}"


def weights_bytes(files: Iterable[RemoteFile]) -> int | None:
    """Size of the weights among chosen files; None where the listing lacks one of their sizes."""
    sizes = [file.size for file in files if is_weights(file.path)]
    return None if None in sizes else sum(size for size in sizes if size is not None)


def is_gguf(path: str) -> bool:
    return path.lower().endswith(".gguf")


def is_weights(path: str) -> bool:
    return path.endswith(".safetensors") or is_gguf(path) or _is_pickled(path)


def _named_gguf(files: Mapping[str, RemoteFile], name: str, where: str) -> RemoteFile:
    if not is_gguf(name):
        raise UnusableFiles(f"{where}: ?file= names a GGUF file, and {name!r} is none.")
    if name not in files:
        others = _some(path for path in files if is_gguf(path))
        raise UnusableFiles(f"{where} has no file {name!r}; its GGUF files: {others or 'none'}.")
    if re.search(r"-\d{5}-of-(?!00001)\d{5}\.gguf$", name.lower()):
        raise UnusableFiles(f"{where}: {name!r} is one part of several; name a GGUF file that is whole.")
    return files[name]


def _weights(files: Mapping[str, RemoteFile], where: str, index: bytes | None, allow_pickle: bool) -> list[str]:
    if INDEX in files and index is not None:
        shards = _shards(index, where)
        if lost := sorted(shards - files.keys()):
            raise UnusableFiles(f"{where} is incomplete: {INDEX} names {_some(lost)}, which isn't there.")
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
        raise UnusableFiles(
            f"{where} has only pickled weights ({_some(pickles)}), which can run code when they are loaded: use a"
            " revision with safetensors, or set AMS_ALLOW_PICKLE=true if you trust its author.",
            Reason.PICKLED_WEIGHTS,
        )
    if ggufs := [path for path in files if is_gguf(path)]:
        raise UnusableFiles(f"{where} has GGUF files; name one with ?file=: {_some(ggufs)}.")
    raise UnusableFiles(
        f"{where} has no weights in its top folder that this runtime can load (safetensors, or GGUF by ?file=).",
    )


def _shards(index: bytes, where: str) -> set[str]:
    try:
        weight_map = read_json(index, _Index, max_bytes=_MOST_INDEX_BYTES).weight_map
    except InvalidJson as error:
        raise UnusableFiles(f"{where}: {INDEX} can't be read: it {error}.") from None
    if not weight_map:
        raise UnusableFiles(f"{where}: {INDEX} names no weights.")
    shards = set(weight_map.values())
    if others := sorted(shard for shard in shards if not is_weights(shard)):  # our own files have names, too
        raise UnusableFiles(f"{where}: {INDEX} names files that hold no weights: {ascii(_some(others))[:300]}.")
    return shards


def _parents(path: str) -> Iterator[str]:
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


def _is_read(path: str) -> bool:
    if _MODULE_FILE.fullmatch(path):
        return True
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
