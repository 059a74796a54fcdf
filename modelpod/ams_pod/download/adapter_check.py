"""Whether a LoRA adapter is one that engines apply, and whether it is for the model that it is put beside.

Of adapter and model only the heads of their files are read. What they don't tell is left to the engine.
"""

import re
import struct
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from ams_common.engines.names import EngineName
from ams_common.hub_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from ams_common.outside import InvalidJson, read_json

_MOST_HEAD_BYTES = 2 << 20  # of a file of safetensors; one of 15,000 tensors has as many
_MOST_SHARDS = 1000
_MOST_RANK = 1 << 16
_LORA = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])(\.\w+)?\.weight")
_LAYER = re.compile(r"layers\.(?P<number>\d+)\..+")
_PLAIN = ("F32", "F16", "BF16", "F64", "F8_E4M3", "F8_E5M2")  # of which a tensor has the matrix's own shape


class WrongAdapter(Exception):
    """The message is a clause without a subject: what is wrong with the adapter."""


class _Config(msgspec.Struct, frozen=True):
    """As far as it matters, of PEFT's adapter_config.json."""

    r: int
    lora_alpha: float | None = None
    peft_type: str = "LORA"
    bias: str = "none"
    rank_pattern: dict[str, int] | None = None
    alpha_pattern: dict[str, float] | None = None
    use_rslora: bool = False
    use_dora: Any = None
    use_qalora: Any = None
    lora_bias: Any = None
    modules_to_save: Any = None
    layer_replication: Any = None
    alora_invocation_tokens: Any = None


_NOT_APPLIED = (
    "use_dora",
    "use_qalora",
    "lora_bias",
    "modules_to_save",
    "layer_replication",
    "alora_invocation_tokens",
)


class _Tensor(msgspec.Struct, frozen=True):
    dtype: str = ""
    shape: list[int] = []


def check_peft(folder: Path, model: Path, engine: EngineName) -> int:
    """The adapter's rank. WrongAdapter for one that the engine, vLLM or SGLang, doesn't apply, or that isn't for the
    model in the folder `model`; OSError."""
    try:
        config = read_json((folder / ADAPTER_CONFIG).read_bytes(), _Config)
    except InvalidJson as error:
        raise WrongAdapter(f"has an {ADAPTER_CONFIG} that can't be read: it {error}") from None
    if (sentence := _why_not(config, engine)) is not None:
        raise WrongAdapter(sentence)
    try:
        tensors = _head(folder / ADAPTER_WEIGHTS)
    except InvalidJson as error:
        raise WrongAdapter(f"has an {ADAPTER_WEIGHTS} that can't be read: it {error}") from None
    if tensors is not None:
        _compare(_pairs(tensors, config.r), _matrices(model))
    return config.r


def _why_not(config: _Config, engine: EngineName) -> str | None:
    """What of the adapter the engine doesn't apply, as a clause without a subject; None where it applies all."""
    if config.peft_type != "LORA":
        return f"is of the kind {config.peft_type[:40]!r}, and only LORA is applied"
    if not 0 < config.r <= _MOST_RANK:
        return f"has rank {config.r}, which makes no sense"
    if (name := next((each for each in _NOT_APPLIED if getattr(config, each)), None)) is not None:
        return f"asks for {name}, which engines don't apply"
    if config.bias != "none":
        return "brings biases (bias), which engines don't take from an adapter"
    ranks, alphas = (config.rank_pattern or {}).values(), (config.alpha_pattern or {}).values()
    if any(rank != config.r for rank in ranks) or any(alpha != config.lora_alpha for alpha in alphas):
        return (
            "has ranks or scales of their own for some modules (rank_pattern, alpha_pattern), which not all versions of"
            " engines apply"
        )
    if config.use_rslora and engine == "sglang":
        return "is scaled by the root of its rank (use_rslora), which SGLang doesn't do"
    return None


def check_gguf(path: Path, model: Path) -> int:
    """The adapter's highest rank. WrongAdapter for a file that is no LoRA adapter, or not for the GGUF file `model`;
    OSError."""
    # Imported where there is such a file: every other download starts without it.
    from ams_pod.engines.builtin.model.gguf_file import read_gguf
    from ams_pod.engines.builtin.model.gguf_header import BadHeader

    try:
        adapter = read_gguf(path)
    except BadHeader as error:
        raise WrongAdapter(f"is no GGUF file that can be read: {path.name} {error}") from None
    told = adapter.metadata
    if told.get("general.type") != "adapter" or told.get("adapter.type") != "lora":
        raise WrongAdapter(f"is no LoRA adapter: {path.name} is another kind of GGUF file")
    shapes = {tensor.name: tensor.shape for tensor in adapter.tensors}
    names = {name.removesuffix(".lora_a") for name in shapes if name.endswith(".lora_a")}
    lonely = names ^ {name.removesuffix(".lora_b") for name in shapes if name.endswith(".lora_b")}
    if not names or lonely or any(len(shapes[f"{name}.lora_{side}"]) != 2 for name in names for side in "ab"):
        raise WrongAdapter(f"is no whole LoRA adapter: {path.name} lacks some of its matrices")
    ranks = {name: shapes[f"{name}.lora_a"][0] for name in names}
    try:
        base = read_gguf(model)
    except BadHeader:
        return max(ranks.values())  # the engine says what is wrong with its model
    mine, its = (str(each.get("general.architecture"))[:40] for each in (told, base.metadata))
    if mine != its:
        raise WrongAdapter(f"is for the architecture {mine}, and the model is of {its}")
    matrices = {tensor.name: tensor.shape for tensor in base.tensors}
    for name in sorted(names):
        if name not in matrices:
            raise WrongAdapter(f"changes {name[:100]!r}, which the model doesn't have")
        given = (shapes[f"{name}.lora_b"][0], shapes[f"{name}.lora_a"][1])
        if not name.startswith("token_embd") and len(matrices[name]) == 2 and given != matrices[name]:
            raise _of_other_size(name, given, matrices[name])
    return max(ranks.values())


def _pairs(tensors: Mapping[str, _Tensor], rank: int) -> dict[str, tuple[int, int]]:
    """(outputs, inputs) by module of the adapter's matrices. WrongAdapter if they don't fit each other."""
    sides: dict[str, dict[str, list[int]]] = defaultdict(dict)
    for name, tensor in tensors.items():
        if (found := _LORA.fullmatch(name)) is not None and len(tensor.shape) == 2:
            sides[found["module"]][found["side"]] = tensor.shape
    if not sides:
        raise WrongAdapter(f"has no matrices of LoRA in {ADAPTER_WEIGHTS}")
    pairs = {}
    for module, shapes in sides.items():
        if ".experts" in module:  # those of several experts may be one matrix
            continue
        if shapes.keys() != {"A", "B"} or shapes["A"][0] != rank or shapes["B"][1] != rank:
            raise WrongAdapter(f"has other matrices for {module[:100]!r} than two of its rank {rank}")
        pairs[module] = (shapes["B"][0], shapes["A"][1])
    return pairs


def _compare(adapter: Mapping[str, tuple[int, int]], model: "_Matrices | None") -> None:
    """WrongAdapter for the first module that the model doesn't have, or has in another size."""
    if model is None:
        return
    for module, given in sorted(adapter.items()):
        found = _LAYER.search(module)
        if found is None:
            continue
        if found[0] not in model.modules:
            if int(found["number"]) >= model.layers:
                raise WrongAdapter(f"changes layer {found['number']}, and the model has {model.layers}")
            raise WrongAdapter(f"changes {found[0][:100]!r}, which the model doesn't have")
        shapes = model.shapes.get(found[0], ())
        if shapes and given not in shapes:
            raise _of_other_size(found[0], given, sorted(shapes)[0])


def _of_other_size(name: str, given: tuple[int, int], has: tuple[int, ...]) -> WrongAdapter:
    return WrongAdapter(
        f"is for another model: its {name[:100]!r} is of {given[0]} x {given[1]}, that of the model of"
        f" {' x '.join(map(str, has))}"
    )


class _Matrices:
    """What a model's safetensors have below `layers.N.`: modules, and the shapes of those that are plain matrices."""

    def __init__(self) -> None:
        self.modules: set[str] = set()
        self.shapes: dict[str, set[tuple[int, int]]] = defaultdict(set)
        self.layers = 0

    def add(self, name: str, tensor: _Tensor) -> None:
        if (found := _LAYER.search(name)) is None:
            return
        module, _, last = found[0].rpartition(".")
        self.layers = max(self.layers, int(found["number"]) + 1)
        self.modules.add(module)
        if last == "weight" and tensor.dtype in _PLAIN and len(tensor.shape) == 2:
            self.shapes[module].add((tensor.shape[0], tensor.shape[1]))


def _matrices(model: Path) -> _Matrices | None:
    """None where the files don't tell, or not all of them."""
    files = sorted(model.glob("*.safetensors")) if model.is_dir() else []
    if not files or len(files) > _MOST_SHARDS:
        return None
    result = _Matrices()
    for file in files:
        try:
            tensors = _head(file)
        except InvalidJson:
            return None
        if tensors is None:
            return None
        for name, tensor in tensors.items():
            result.add(name, tensor)
    return result if result.modules else None


def _head(path: Path) -> dict[str, _Tensor] | None:
    """The tensors of a file of safetensors; None of one with more of them than are looked at. InvalidJson, OSError."""
    with open(path, "rb") as file:
        start = file.read(8)
        if len(start) < 8:
            raise InvalidJson("ends too early")
        (length,) = struct.unpack("<Q", start)
        if length > path.stat().st_size:
            raise InvalidJson("says that its head is longer than the file")
        if length > _MOST_HEAD_BYTES:
            return None
        told: dict[str, Any] = read_json(file.read(length), dict[str, Any])
    told.pop("__metadata__", None)
    try:
        return msgspec.convert(told, dict[str, _Tensor])
    except msgspec.ValidationError:
        raise InvalidJson("has no head of safetensors") from None
