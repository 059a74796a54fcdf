"""What a model needs of memory in each quantization, and which fits. Pure: sizes in, a choice with its reason out.

The operator's preflight, `ams plan` and the pod decide by the same figures.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ams_common.families import language_config
from ams_common.pod_settings import Quantization
from ams_common.quantity import format_bytes

Chosen = Literal["none", "8bit", "4bit"]

HEADROOM = 0.10  # of the weights and the cache: activations, fragments of the allocator
AUTO_CONTEXT_TOKENS = 1024  # of a request in the estimate, where the model may be given less than its whole context

_CACHE_SHARE, _PLAIN_SHARE = 0.15, 0.14
_PRECISION_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8}
# Of one weight. On a GPU by bitsandbytes: nf4 has a float32 scale for 64 weights, and embeddings stay as they are. On a
# CPU in groups of 32 with a float16 scale and offset, embeddings in 8 bits.
_GPU_BYTES: dict[Chosen, float] = {"8bit": 1.0, "4bit": 0.5 + 4 / 64}
_CPU_BYTES: dict[Chosen, float] = {"8bit": 1 + 2 / 32, "4bit": 0.5 + 4 / 32}
_WORDS: dict[Chosen, str] = {"8bit": "8-bit", "4bit": "4-bit"}


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a language model that memory depends on, as its config.json gives them. 0 is unknown."""

    hidden: int = 0
    layers: int = 0
    key_value_heads: int = 0
    head: int = 0
    vocabulary: int = 0
    context_tokens: int = 0
    tied: bool = True  # input and output embeddings are one matrix

    @property
    def cache_values_per_token(self) -> int:
        """Keys and values of one token in all layers."""
        return 2 * self.layers * self.key_value_heads * self.head

    @property
    def embeddings(self) -> int:
        """Parameters that GPUs keep as they are, and CPUs in 8 bits."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes that a model takes in one quantization, on a GPU; `on` says what it takes elsewhere."""

    quantization: Chosen
    words: str  # "bfloat16", "4-bit"
    weights_bytes: int
    cache_bytes: int
    cpu_weights_bytes: int | None = None  # where they are others than on a GPU

    def on(self, device: str) -> "Need":
        """What is needed on a device, "cpu" or a GPU."""
        if device != "cpu" or self.cpu_weights_bytes is None:
            return self
        return replace(self, weights_bytes=self.cpu_weights_bytes, cpu_weights_bytes=None)

    @property
    def total_bytes(self) -> int:
        return int((self.weights_bytes + self.cache_bytes) * (1 + HEADROOM))


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Bytes that a model may take: of each GPU, in their order, and of the machine. No GPUs: it runs on the CPU.

    `ram` is None where it isn't known.
    """

    gpus: tuple[int, ...] = ()
    ram: int | None = None


@dataclass(frozen=True, slots=True)
class Fit:
    """The quantization that is chosen and why. `fits` is false where not even the smallest fits.

    `spread`: unquantized over all GPUs and the machine's memory, as no GPU holds it alone.
    """

    fits: bool
    chosen: Chosen
    reason: str
    spread: bool = False


def shape_of(config: Mapping[str, Any]) -> Shape:
    """From a config.json; of models with several parts, the language model's."""
    text = language_config(config)
    heads = _number(text, "num_attention_heads", "n_head")
    hidden = _number(text, "hidden_size", "n_embd", "d_model")
    head = _number(text, "head_dim") or (hidden // heads if heads else 0)
    tied = text.get("tie_word_embeddings", config.get("tie_word_embeddings", True))
    return Shape(
        hidden=hidden,
        layers=_number(text, "num_hidden_layers", "n_layer"),
        key_value_heads=_number(text, "num_key_value_heads") or heads,
        head=head,
        vocabulary=_number(text, "vocab_size"),
        context_tokens=_number(text, "max_position_embeddings", "n_positions"),
        tied=tied is not False,
    )


def stored_bytes_per_parameter(config: Mapping[str, Any]) -> int:
    """Bytes that one parameter takes in the model's files; 2 where config.json is silent."""
    for part in (config, language_config(config)):
        for name in ("dtype", "torch_dtype"):
            if (size := _PRECISION_BYTES.get(str(part.get(name)))) is not None:
                return size
    return 2


def needs(
    parameters: int, shape: Shape, *, rows: int, context_tokens: int | None, precision: str = "bfloat16"
) -> tuple[Need, ...]:
    """What the model takes unquantized, in 8 and in 4 bits, with a cache for `rows` requests.

    `context_tokens` None stands for auto: the pod then shortens the context to what memory allows.
    """
    size = _PRECISION_BYTES.get(precision, 2)
    tokens = context_tokens or min(shape.context_tokens or AUTO_CONTEXT_TOKENS, AUTO_CONTEXT_TOKENS)
    cache = rows * tokens * shape.cache_values_per_token * size
    plain = min(shape.embeddings, parameters)
    if not shape.layers:  # nothing but the number of parameters is known: shares as most models of this size have
        cache, plain = int(parameters * size * _CACHE_SHARE), int(parameters * _PLAIN_SHARE)
    result = [Need("none", precision, parameters * size, cache)]
    for name, each in _GPU_BYTES.items():
        gpu = int((parameters - plain) * each) + plain * size
        cpu = int((parameters - plain) * _CPU_BYTES[name] + plain * _CPU_BYTES["8bit"])
        result.append(Need(name, _WORDS[name], gpu, cache, cpu))
    return tuple(result)


def choose_fit(needs: Sequence[Need], free_bytes: int, *, wanted: Quantization = "auto", device: str = "cuda") -> Fit:
    """The first of none, 8bit and 4bit that fits `free_bytes`, or the one that is `wanted`, and whether that fits."""
    candidates = [need.on(device) for need in needs if wanted in ("auto", need.quantization)]
    too_large: list[Need] = []
    for need in candidates:
        if need.total_bytes <= free_bytes:
            return Fit(True, need.quantization, _reason(too_large, need, free_bytes, wanted))
        too_large.append(need)
    smallest = candidates[-1]
    sentence = f"{_parts(smallest)} does not fit {format_bytes(free_bytes)}"
    return Fit(False, smallest.quantization, sentence + (", the smallest there is" if wanted == "auto" else ""))


def fit_on(needs: Sequence[Need], memory: DeviceMemory, *, wanted: Quantization = "auto") -> Fit:
    """As `choose_fit`, for what a pod finds: the first GPU, else all of them together, else the machine.

    Weights that no quantization fits into one GPU stay unquantized and are spread, unless one is `wanted`.
    """
    if not memory.gpus:
        return choose_fit(needs, memory.ram or 0, wanted=wanted, device="cpu")
    fit = choose_fit(needs, memory.gpus[0], wanted=wanted, device="cuda")
    if fit.fits or wanted in ("8bit", "4bit") or spread(needs[0], memory) is None:
        return fit
    return Fit(True, "none", f"{fit.reason}: spread over devices", spread=True)


def spread(plain: Need, memory: DeviceMemory) -> Mapping[int | str, int] | None:
    """Bytes for unquantized weights on each device, GPUs by number and "cpu"; None if they don't fit all together.

    The cache stays where the layers are.
    """
    share = plain.weights_bytes / max(1, plain.weights_bytes + plain.cache_bytes)
    room: dict[int | str, int] = {gpu: int(free * share / (1 + HEADROOM)) for gpu, free in enumerate(memory.gpus)}
    room["cpu"] = int((memory.ram or 0) / (1 + HEADROOM))
    return room if sum(room.values()) >= plain.weights_bytes else None


def too_large_sentence(reason: str) -> str:
    """What a person reads, and may do, where a model doesn't fit; `reason` is a `Fit`'s."""
    return (
        f"{reason}; give it more memory (spec.resources or spec.maxMemory), lower spec.limits.contextTokens or"
        " concurrentRequests, or choose a smaller model."
    )


def _reason(too_large: Sequence[Need], chosen: Need, free: int, wanted: str) -> str:
    if wanted != "auto":
        return f"asked for; {_parts(chosen)} fits {format_bytes(free)}"
    if not too_large:
        return f"{_parts(chosen)} fits {format_bytes(free)}"
    smaller = f"{format_bytes(chosen.weights_bytes)} in {chosen.words} does"
    return f"{_parts(too_large[0])} does not fit {format_bytes(free)}; {smaller}"


def _parts(need: Need) -> str:
    return f"{format_bytes(need.weights_bytes)} in {need.words} + {format_bytes(need.cache_bytes)} cache"


def _number(config: Mapping[str, Any], *names: str) -> int:
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return 0
