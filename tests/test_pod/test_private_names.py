"""Names of dependencies that they don't promise to keep, and that the product uses all the same.

An upgrade that drops one fails here, with the place that uses it, and not in a pod. A use that isn't listed fails too.
"""

import ast
import importlib
import inspect
import operator
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ams_pod.engines.builtin  # noqa: F401  # makes torchvision importable
import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("common", "modelpod", "gateway", "operator", "cli")


@dataclass(frozen=True)
class Private:
    """`name` is an attribute path in `module`; None for a module that is private itself. `used` is who relies on it."""

    module: str
    name: str | None
    used: str

    @property
    def parts(self) -> set[str]:
        """What of it begins with an underscore."""
        path = [*self.module.split("."), *(self.name or "").split(".")]
        return {part for part in path if part.startswith("_")}


NAMES = [
    Private("aiohttp.web", "RequestHandler._messages", "gateway: broken framing in the middle of a body"),
    Private("aiohttp.web", "RequestHandler._current_request", "gateway: the same"),
    Private("aiohttp.base_protocol", "BaseProtocol._reading_paused", "gateway: whether reading is paused"),
    Private("aiohttp.client_proto", "ResponseHandler", "gateway: connections to pods"),
    Private("aiohttp.http_parser", "RawRequestMessage.compression", "gateway: whether a body is compressed"),
    Private("huggingface_hub.utils._headers", "build_hf_headers", "download: requests to the hub"),
    Private("huggingface_hub.utils._http", "get_session", "download: the same"),
    Private("huggingface_hub.utils._http", "hf_raise_for_status", "download: the same"),
    Private("huggingface_hub.utils._runtime", "is_xet_available", "download: files stored by chunks"),
    Private("huggingface_hub.utils._xet", "XetFileData", "download: the same"),
    Private("huggingface_hub.utils._xet", "get_xet_session", "download: the same"),
    Private("huggingface_hub.utils._xet", "refresh_xet_connection_info", "download: the same"),
    Private("huggingface_hub.utils._xet", "xet_headers_without_auth", "download: the same"),
    Private("huggingface_hub.utils._validators", "validate_repo_id", "download: names that no hub takes"),
    Private("kopf._cogs.clients", None, "operator: loggers that repeat what we say"),
    Private("kopf._core", None, "operator: the same"),
    Private("bitsandbytes.autograd._functions", None, "pod: a logger that warns at each call"),
    Private("torch", "ops.aten._convert_weight_to_int4pack_for_cpu", "weights: 4 bits without compiled kernels"),
    Private("torch", "ops.aten._weight_int4pack_mm_for_cpu", "weights: the same"),
    Private("torch.ops", "mkldnn._linear_pointwise.binary", "pod: packed linear layers"),
    Private("torch.ops", "mkldnn._reorder_linear_weight", "pod: the same"),
    Private("torch.ops", "mkldnn._is_mkldnn_bf16_supported", "pod: bfloat16 on this CPU"),
    Private("torch", "cpu._is_amx_tile_supported", "pod: towers' attention"),
    Private("transformers", "PreTrainedModel._is_stateful", "pod: models that take one request at a time"),
    Private("transformers.models.t5.modeling_t5", "T5PreTrainedModel._keep_in_fp32_modules", "pod: models as named"),
    Private("transformers.models.hy_v3.modeling_hy_v3", "HYV3PreTrainedModel._keep_in_fp32_modules_strict", "the same"),
    Private("transformers.tokenization_utils_tokenizers", "TokenizersBackend", "pod: tokenizer.json as it is"),
    Private("transformers.models.auto.tokenization_auto", "MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS", "pod: the same"),
    Private("transformers.models.auto.tokenization_auto", "TOKENIZER_MAPPING_NAMES", "pod: the same"),
    Private("transformers", "GenerationMixin._update_model_kwargs_for_generation", "pod: requests computed apart"),
    Private("transformers", "Qwen3VLProcessor._calculate_timestamps", "pod: the times in the prompt of a video"),
    Private("transformers.integrations.gguf", "GGUF_CONFIG_ARCHS", "pod: what of a GGUF file transformers reads"),
    Private("transformers.integrations", "GGUF_CONFIG_MAPPING", "pod: the same"),
    Private("transformers.modeling_gguf_pytorch_utils", "TENSOR_PROCESSORS", "pod: the same"),
    Private("transformers.modeling_gguf_pytorch_utils", "get_gguf_hf_weights_map", "pod: the same"),
    Private("transformers.modeling_gguf_pytorch_utils", "load_gguf_checkpoint", "pod: a GGUF file read once"),
    Private("transformers.utils.logging", "set_tqdm_hook", "pod: how much of the weights is loaded"),
    Private("transformers.models.blip.modeling_blip_text", "BlipTextAttention.forward", "pod: masks of questions"),
    Private("transformers.models.qwen2_audio.modeling_qwen2_audio", "Qwen2AudioForConditionalGeneration", "pod: clips"),
]
# Attributes that a function of the dependency sets, so that no class has them before.
SET_LATER = {
    "_message": "aiohttp.web_request:BaseRequest.__init__",  # gateway: whether a body is compressed
    "_runner": "aiohttp.web_runner:BaseSite.__init__",  # gateway: a time limit for handshakes
    "_port": "aiohttp.web_runner:TCPSite.__init__",  # gateway: the same
    "_hf_hook": "accelerate.hooks:add_hook_to_module",  # pod: layers on several devices
}
OURS = {"_direct", "_unknown", "_type"}  # texts that only look like such names


@pytest.mark.parametrize("private", NAMES, ids=lambda each: f"{each.module}:{each.name}")
def test_it_exists(private: Private) -> None:
    found: Any = importlib.import_module(private.module) if private.module != "torch.ops" else _torch_operators()
    for part in (private.name or "").split("."):
        if part:
            found = _member(found, part)
    assert found is not None, private.used


def test_what_is_set_later_is_still_set() -> None:
    for name, place in SET_LATER.items():
        module, _, path = place.partition(":")
        function = operator.attrgetter(path)(importlib.import_module(module))
        source = inspect.getsource(inspect.unwrap(getattr(function, "__func__", function)))
        assert re.search(rf"\b{name}\b", source), place


def test_all_that_the_product_uses_are_listed() -> None:
    ours = OURS.union(*(_defined(path) for path in _files()))
    listed = set().union(*(each.parts for each in NAMES), SET_LATER)
    used = {(name, path.name) for path in _files() for name in _used(path)}
    assert {(name, file) for name, file in used if name not in ours and name not in listed} == set()
    assert {name for name in listed if name not in {name for name, _ in used}} == set(), "no longer used"


def _torch_operators() -> Any:
    import torch

    return torch.ops


def _member(found: Any, name: str) -> Any:
    """An attribute, a slot, or an annotated field of a class."""
    if hasattr(found, name):
        return getattr(found, name)
    for kind in getattr(found, "__mro__", ()):
        if name in getattr(kind, "__slots__", ()) or name in getattr(kind, "__annotations__", {}):
            return name
    raise AttributeError(f"{found} has no {name} any more")


def _files() -> Iterator[Path]:
    for package in PACKAGES:
        yield from (ROOT / package).rglob("*.py")


_NO_NAMES_OF_PYTHON = ("_backend", "_backend_was_auto")  # fields that vLLM's clients send


def _private(name: str) -> bool:
    others = ("_", "_exit", "_fields", *_NO_NAMES_OF_PYTHON)
    return name.startswith("_") and not name.startswith("__") and name not in others


def _used(path: Path) -> Iterator[str]:
    """Private attributes, modules, and names in texts that look one up or name a module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and _private(node.attr):
            yield node.attr
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from filter(_private, [*node.module.split("."), *(alias.name for alias in node.names)])
        elif isinstance(node, ast.Constant) and re.fullmatch(r"_[a-z]\w+|[a-z]\w*(\.\w+)+", str(node.value)):
            yield from filter(_private, str(node.value).split("."))


def _defined(path: Path) -> Iterator[str]:
    """Private names that the product defines itself."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name
