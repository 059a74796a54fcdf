"""From the hidden states of a text to its vector, as the repository's own files say."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import msgspec
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from ams_pod.engines.port import LoadFailed
from ams_pod.engines.prompts.embedding import PoolName, read_file, read_recipe

Pool = Callable[[Tensor, Tensor], Tensor]
"""States [texts, tokens, hidden] and 1 where one is a token's [texts, tokens] → [texts, hidden]."""


class _Dense(msgspec.Struct):
    in_features: Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]
    out_features: Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]
    bias: bool = True
    activation_function: str = "torch.nn.modules.activation.Tanh"


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


def read_pooling(folder: Path, device: str) -> Pooling:
    """Of a model's folder; the mean of all tokens where its files say nothing. LoadFailed for what isn't known here."""
    recipe = read_recipe(folder)
    layers = [normalize if each.kind == "normalize" else _dense(folder / each.path, device) for each in recipe.layers]
    return Pooling(
        _pool_of(recipe.pools), layers, recipe.prompts, recipe.default_prompt, recipe.longest, recipe.lower_case
    )


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


_POOLS: dict[PoolName, Pool] = {
    "cls": first,
    "max": highest,
    "mean": mean,
    "mean-sqrt": mean_sqrt,
    "weighted-mean": weighted_mean,
    "last": last,
}
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "Tanh": torch.tanh,
    "Identity": lambda values: values,
    "ReLU": torch.relu,
    "GELU": F.gelu,
    "Sigmoid": torch.sigmoid,
}


def _pool_of(names: Sequence[PoolName]) -> Pool:
    pools = [_POOLS[name] for name in names]
    if len(pools) == 1:
        return pools[0]
    return lambda states, mask: torch.cat([pool(states, mask) for pool in pools], -1)


def _dense(folder: Path, device: str) -> Callable[[Tensor], Tensor]:
    config = read_file(folder / "config.json", _Dense)
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
