"""Which engine serves a model, and why. Pure: the resource and what is known in, a name with its reason out."""

import re
from dataclasses import dataclass

from ams_common.engines import llamacpp, refusing, vllm
from ams_common.engines.names import EngineName
from ams_common.engines.table import row_of
from ams_common.engines.vllm_architectures import ARCHITECTURES
from ams_common.engines.wishes import UNKNOWN, ModelFacts, family_name
from ams_common.resource.spec import ModelDeployment
from ams_common.source import InvalidSource, WheelSource, names_gguf, parse_source

VLLM_QUANTIZATIONS = frozenset(
    {"awq", "gptq", "fp8", "compressed-tensors", "modelopt", "modelopt_fp4", "mxfp4", "quark", "torchao", "fbgemm_fp8"}
)
"""Of weights that come quantized, `quantization_config.quant_method` in config.json: those that vLLM computes."""

ARCHITECTURE_UNKNOWN = "the model's architecture isn't known before it is downloaded"

# Kinds in the names of GGUF files that the builtin engine unpacks to 16 bits, as it has no kernels for them.
_UNPACKED = re.compile(r"(?:^|[-_.])((?:IQ\d|TQ\d|Q2_K|Q3_K|MXFP4)[A-Z0-9_]*)(?=[-.]|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """What `auto` chooses by, beside the resource.

    `architectures` as in config.json, None while they aren't known. `gpu`: one is asked for, and on a laptop is there.
    `at_hand` are the engines whose image or program is known; `quantized_by` the method of weights that come quantized.
    `fits_gpu`: whether the weights as they are fit the GPUs, None where it isn't known.
    """

    architectures: tuple[str, ...] | None = None
    gpu: bool = False
    at_hand: frozenset[EngineName] = frozenset()
    quantized_by: str | None = None
    fits_gpu: bool | None = None
    model: ModelFacts = UNKNOWN


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """The engine, and a sentence without its end that says why."""

    name: EngineName
    reason: str


def choose_engine(resource: ModelDeployment, facts: EngineFacts) -> EngineChoice:
    """The one that the resource names; `auto`: vLLM or llama.cpp where they are the better one, else builtin."""
    wanted = resource.spec.engine.name
    if wanted != "auto":
        return EngineChoice(wanted, "spec.engine.name asks for it")
    if (file := _gguf_file(resource)) is not None:
        return _for_gguf(resource, file, facts)
    if not facts.gpu:
        return EngineChoice("builtin", "no GPU is asked for")
    why_not = _why_not_vllm(resource, facts)
    if why_not is not None:
        return EngineChoice("builtin", why_not)
    return EngineChoice("vllm", f"a GPU is asked for, and vLLM serves {_architecture(facts)}")


def refusals(resource: ModelDeployment, choice: EngineChoice, facts: ModelFacts = UNKNOWN) -> list[str]:
    """What the resource asks for that the chosen engine can't do, as sentences that begin with the field's path."""
    row = row_of(choice.name)
    return row.refusals(resource, facts) if row is not None else refusing.builtin(resource, choice.reason)


def unpacked_kind(file: str) -> str | None:
    """The kind in a GGUF file's name that the builtin engine has no kernels for, as in model-IQ2_XS.gguf."""
    found = _UNPACKED.search(file.rpartition("/")[2])
    return found[1].upper() if found else None


def _for_gguf(resource: ModelDeployment, file: str, facts: EngineFacts) -> EngineChoice:
    kind = unpacked_kind(file)
    if resource.spec.adapters:
        return _by_llamacpp(resource, facts, "it applies adapters to GGUF files")
    if family_name(resource.spec, facts.model) == "embedding":
        return _by_llamacpp(resource, facts, "it reads GGUF files of embedding models")
    if kind is None and not facts.gpu:
        return EngineChoice("builtin", "it computes GGUF files of this kind as they are")
    what = f"GGUF files of the kind {kind}" if kind is not None else "GGUF files on a GPU"
    if "llamacpp" not in facts.at_hand:
        return EngineChoice("builtin", f"it unpacks {what}; llama.cpp, which isn't at hand, computes them as they are")
    if refused := llamacpp.ROW.refusals(resource, facts.model):
        return EngineChoice("builtin", f"llama.cpp can't do what is asked for: {refused[0]}")
    return EngineChoice("llamacpp", f"it computes {what} as they are, which the builtin engine would unpack")


def _by_llamacpp(resource: ModelDeployment, facts: EngineFacts, why: str) -> EngineChoice:
    """llama.cpp for what it alone does, as `why` says; else the builtin engine, which says that it can't."""
    if "llamacpp" not in facts.at_hand:
        return EngineChoice("builtin", f"llama.cpp isn't at hand: {why}")
    if refused := llamacpp.ROW.refusals(resource, facts.model):
        return EngineChoice("builtin", f"llama.cpp can't do what is asked for: {refused[0]}")
    return EngineChoice("llamacpp", why)


def _why_not_vllm(resource: ModelDeployment, facts: EngineFacts) -> str | None:
    if refused := vllm.ROW.refusals(resource, facts.model):
        return f"vLLM can't do what is asked for: {refused[0]}"
    if family_name(resource.spec, facts.model) == "embedding":
        return "it makes the vectors of every embedding model, and vLLM those of most"
    if "vllm" not in facts.at_hand:
        return "vLLM isn't at hand"
    if not facts.architectures:
        return ARCHITECTURE_UNKNOWN
    if not any(name in ARCHITECTURES for name in facts.architectures):
        return f"vLLM has no code of its own for {', '.join(facts.architectures)}"
    if facts.quantized_by is not None and facts.quantized_by not in VLLM_QUANTIZATIONS:
        return f"vLLM doesn't compute weights quantized by {facts.quantized_by}"
    if facts.fits_gpu is False:
        return "the weights as they are don't fit the GPU, and the builtin engine quantizes them"
    return None


def _architecture(facts: EngineFacts) -> str:
    return next(name for name in facts.architectures or () if name in ARCHITECTURES)


def _gguf_file(resource: ModelDeployment) -> str | None:
    try:
        source = parse_source(resource.spec.model.source)
    except InvalidSource:
        return None
    if not names_gguf(source):
        return None
    if isinstance(source, WheelSource):
        return source.path
    return source.file or getattr(source, "path", "")
