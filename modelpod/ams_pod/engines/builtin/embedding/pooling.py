"""From the hidden states of a text to its vector, as the repository's own files say (sentence-transformers' layout)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch
import torch.nn.functional as F
from ams_common.outside import InvalidJson, read_json
from safetensors.torch import load_file
from torch import Tensor

from ams_pod.engines.port import LoadFailed

_MODULES = "modules.json"
_MOST_CONFIG_BYTES = 1 << 20
_FOLDER = r"\A(|\d{1,2}_[A-Za-z]{1,40})\Z"

Pool = Callable[[Tensor, Tensor], Tensor]
"""States [texts, tokens, hidden] and 1 where one is a token's [texts, tokens] → [texts, hidden]."""


class _Module(msgspec.Struct):
    type: str
    path: Annotated[str, msgspec.Meta(pattern=_FOLDER)] = ""


class _Pooling(msgspec.Struct):
    pooling_mode_cls_token: bool = False
    pooling_mode_mean_tokens: bool = False
    pooling_mode_max_tokens: bool = False
    pooling_mode_mean_sqrt_len_tokens: bool = False
    pooling_mode_weightedmean_tokens: bool = False
    pooling_mode_lasttoken: bool = False
    include_prompt: bool = True


class _Dense(msgspec.Struct):
    in_features: Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]
    out_features: Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]
    bias: bool = True
    activation_function: str = "torch.nn.modules.activation.Tanh"


class _Prompts(msgspec.Struct):
    prompts: dict[str, str] = {}
    default_prompt_name: str | None = None


class _Transformer(msgspec.Struct):
    max_seq_length: Annotated[int, msgspec.Meta(ge=1, le=1 << 24)] | None = None
    do_lower_case: bool = False


@dataclass(frozen=True, slots=True)
class Pooling:
    """`layers` come behind pooling, in their order. `longest` is how many tokens the authors read of a text."""

    pool: Pool
    layers: Sequence[Callable[[Tensor], Tensor]] = ()
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    longest: int | None = None
    lower_case: bool = False

    def __call__(self, states: Tensor, mask: Tensor) -> Tensor:
        """The vectors [texts, size], float32."""
        vectors = self.pool(states.float(), mask)
        for layer in self.layers:
            vectors = layer(vectors)
        return vectors


def is_sentence_transformer(folder: Path) -> bool:
    """Whether a folder's files say that its model makes embeddings."""
    return (folder / _MODULES).is_file()


def read_pooling(folder: Path, device: str) -> Pooling:
    """Of a model's folder; the mean of all tokens where its files say nothing. LoadFailed for what isn't known here."""
    named = _read(folder / "config_sentence_transformers.json", _Prompts) or _Prompts()
    own = _read(folder / "sentence_bert_config.json", _Transformer) or _Transformer()
    modules = _read(folder / _MODULES, list[_Module])
    pool: Pool = mean
    layers: list[Callable[[Tensor], Tensor]] = []
    for module in modules or []:
        kind, place = module.type.rpartition(".")[2], folder / module.path
        match kind:
            case "Transformer":
                continue
            case "Pooling":
                pool = _pool_of(_read(place / "config.json", _Pooling) or _Pooling(pooling_mode_mean_tokens=True))
            case "Dense":
                layers.append(_dense(place, device))
            case "Normalize":
                layers.append(normalize)
            case _:
                raise LoadFailed(f"{_MODULES}: embeddings pass a {kind[:60]!r} there, which is not known here")
    if modules is None:
        layers.append(normalize)
    return Pooling(pool, layers, named.prompts, named.default_prompt_name, own.max_seq_length, own.do_lower_case)


def first(states: Tensor, mask: Tensor) -> Tensor:
    return states[:, 0]


def last(states: Tensor, mask: Tensor) -> Tensor:
    return states[torch.arange(len(states), device=states.device), mask.sum(1) - 1]


def mean(states: Tensor, mask: Tensor) -> Tensor:
    weights = mask[..., None].float()
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1e-9)


def mean_sqrt(states: Tensor, mask: Tensor) -> Tensor:
    weights = mask[..., None].float()
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1e-9).sqrt()


def weighted_mean(states: Tensor, mask: Tensor) -> Tensor:
    """Later tokens weigh more: the first 1, the second 2 …"""
    weights = mask[..., None].float() * torch.arange(1, mask.shape[1] + 1, device=mask.device)[None, :, None]
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1e-9)


def highest(states: Tensor, mask: Tensor) -> Tensor:
    return states.masked_fill(mask[..., None] == 0, float("-inf")).max(1).values


def normalize(vectors: Tensor) -> Tensor:
    return F.normalize(vectors, dim=-1)


_POOLS: dict[str, Pool] = {
    "pooling_mode_cls_token": first,
    "pooling_mode_max_tokens": highest,
    "pooling_mode_mean_tokens": mean,
    "pooling_mode_mean_sqrt_len_tokens": mean_sqrt,
    "pooling_mode_weightedmean_tokens": weighted_mean,
    "pooling_mode_lasttoken": last,
}
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "Tanh": torch.tanh,
    "Identity": lambda values: values,
    "ReLU": torch.relu,
    "GELU": F.gelu,
    "Sigmoid": torch.sigmoid,
}


def _pool_of(config: _Pooling) -> Pool:
    pools = [pool for name, pool in _POOLS.items() if getattr(config, name)] or [mean]
    if not config.include_prompt:
        raise LoadFailed("the model leaves its prompts out of what it pools (include_prompt), which is not done here")
    if len(pools) == 1:
        return pools[0]
    return lambda states, mask: torch.cat([pool(states, mask) for pool in pools], -1)


def _dense(folder: Path, device: str) -> Callable[[Tensor], Tensor]:
    config = _read(folder / "config.json", _Dense)
    activation = _ACTIVATIONS.get(config.activation_function.rpartition(".")[2]) if config is not None else None
    if config is None or activation is None:
        raise LoadFailed(f"{folder.name}: a layer behind pooling has no configuration that is known here")
    try:
        tensors = load_file(folder / "model.safetensors", device=device)
        weight = tensors["linear.weight"].float()
        bias = tensors["linear.bias"].float() if config.bias else None
    except (OSError, KeyError, ValueError) as error:
        raise LoadFailed(f"{folder.name}: its weights can't be read ({type(error).__name__}: {error})") from None
    if tuple(weight.shape) != (config.out_features, config.in_features):
        raise LoadFailed(f"{folder.name}: its weights are {tuple(weight.shape)}, not what its configuration says")
    return lambda vectors: activation(F.linear(vectors, weight, bias))


def _read(path: Path, kind: Any) -> Any:
    """None where there is no such file. LoadFailed for one that makes no sense."""
    try:
        return read_json(path.read_bytes(), kind, max_bytes=_MOST_CONFIG_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LoadFailed(f"{path.name} can't be read ({error.strerror})") from None
    except InvalidJson as error:
        raise LoadFailed(f"{path.parent.name}/{path.name} can't be used: it {error}") from None
