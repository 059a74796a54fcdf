"""A tower's call in parts, between which others may be computed.

A layer is a moment for small media. For a large picture it isn't: one layer of 65,536 patches that attend to each other
takes a minute on a CPU. So what works on each patch by itself (projections, the MLP, the first convolution) takes some
rows at a time, and attention some of the queries: the results are the same, and large intermediates are never whole in
memory. What to do between the parts is set for the thread that computes.
"""

import contextlib
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

ATTENTION = "ams_interruptible"
"""Name of the attention function that asks for queries in parts, as transformers knows it."""

_PART_SECONDS = 0.1
"""What a part takes on a CPU, by how fast the last ones were."""

_FIRST_FLOPS, _LEAST_FLOPS, _GPU_FLOPS = 5e9, 2e9, 2e12  # smaller parts take longer altogether than they gain
_LEAST_ROWS = 64


class _State(threading.local):
    """Of the thread that computes: what it does between two parts, what it computed since, and how large parts are."""

    act: Callable[[], None] | None = None
    since = 0.0
    spent = 0.0
    part = _FIRST_FLOPS


_state = _State()


@contextlib.contextmanager
def between_parts(act: Callable[[], None]) -> Iterator[None]:
    """Within the block, `act` is called between parts that this thread computes. Blocks are not nested."""
    _state.act, _state.spent, _state.since = act, 0.0, time.perf_counter()
    try:
        yield
    finally:
        _state.act = None


def pause() -> None:
    """Here others may be computed."""
    act, seconds = _state.act, time.perf_counter() - _state.since
    if act is None:
        return
    if _state.spent and seconds:
        _state.part = max(_LEAST_FLOPS, (_state.part + _state.spent / seconds * _PART_SECONDS) / 2)
    _state.act = None  # what is computed now is no part of this tower's call
    try:
        act()
    finally:
        _state.act, _state.spent, _state.since = act, 0.0, time.perf_counter()


def make_interruptible(tower: nn.Module) -> None:
    """Put pauses into a tower, before each of its layers and into what is large."""
    for layer in _layers(tower):
        layer.register_forward_pre_hook(lambda *_: pause())
    for module in _by_rows(tower):
        _InParts(module)
    config: Any = getattr(tower, "config", None)
    if getattr(config, "_attn_implementation", None) == "sdpa" and hasattr(tower, "patch_embed"):
        config._attn_implementation = ATTENTION  # of a tower for pictures: those for sound never hear so much at once


def _layers(module: nn.Module) -> list[nn.Module]:
    """What a tower runs one after another: the members of its lists of modules."""
    return [layer for part in module.modules() if isinstance(part, nn.ModuleList) for layer in part]


def _by_rows(tower: nn.Module) -> list[nn.Module]:
    """The largest modules that compute each row by itself; what lies within them is not listed."""
    found: list[nn.Module] = []

    def look(name: str, module: nn.Module) -> None:
        if name in ("mlp", "patch_embed") or isinstance(module, nn.Linear):
            found.append(module)
            return
        for child_name, child in module.named_children():
            look(child_name, child)

    look("", tower)
    return found


class _InParts:
    """The forward of a module that computes each row by itself, some rows at a time."""

    def __init__(self, module: nn.Module) -> None:
        own = vars(module).get("forward")  # such as that of a module whose weights lie elsewhere
        whole, reference = type(module).forward, weakref.ref(module)  # no cycle, which would keep the weights
        self._whole = own if own is not None else lambda *inputs, **options: whole(reference(), *inputs, **options)
        self._flops = 2.0 * sum(parameter.numel() for parameter in module.parameters())
        module.forward = self

    def __call__(self, rows: Tensor, *arguments: Any, **options: Any) -> Tensor:
        work = self._flops * rows.numel() / max(1, rows.shape[-1])
        part = part_flops(rows)
        if work <= part or rows.dim() not in (2, 3):
            spend(work, part)
            return self._whole(rows, *arguments, **options)
        results = []
        for some in rows.split(max(_LEAST_ROWS, int(rows.shape[-2] * part / work)), dim=-2):
            spend(part, part)
            results.append(self._whole(some, *arguments, **options))
        return torch.cat(results, dim=-2)


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """transformers' own, [batch, heads, tokens, width], for some of the queries at a time."""
    heads, count, width = query.shape[1:]
    work = 4.0 * heads * count * key.shape[2] * width
    part = part_flops(query)
    causal = options.get("is_causal")
    if causal is None:
        causal = getattr(module, "is_causal", True)  # as transformers has it
    if work <= part or attention_mask is not None or causal:
        spend(work, part)
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)[0], None
    results = []
    for some in query.split(max(_LEAST_ROWS, int(count * part / work)), dim=2):
        spend(part, part)
        results.append(sdpa_attention_forward(module, some, key, value, None, **options)[0])
    return torch.cat(results, dim=1), None


def part_flops(tensor: Tensor) -> float:
    """Operations of the next part of what is computed where `tensor` is."""
    return _state.part if tensor.device.type == "cpu" else _GPU_FLOPS


def spend(flops: float, part: float) -> None:
    """Account for what is computed next; a pause first, where enough was computed since the last one."""
    if _state.spent and (_state.spent + flops > part or time.perf_counter() - _state.since > _PART_SECONDS):
        pause()
    _state.spent += flops


AttentionInterface.register(ATTENTION, _attend)
