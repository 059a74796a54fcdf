"""How positions turn queries and keys: a GGUF file's settings and factors as `rope_parameters` of config.json.

What is computed is what llama.cpp computes: a rotary frequency is divided by its factor (`rope_freqs.weight`) and by
the scaling's. https://github.com/ggml-org/llama.cpp/blob/master/src/llama-context.cpp
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ams_pod.engines.builtin.model.gguf_settings import NotComputed, number, refusal, told

Floats = NDArray[np.float64]

FACTORS = "rope_freqs.weight"
READ = frozenset(
    {
        "rope.freq_base", "rope.scale_linear", "rope.scaling.attn_factor", "rope.scaling.factor",
        "rope.scaling.original_context_length", "rope.scaling.type", "rope.scaling.yarn_attn_factor",
        "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow", "rope.scaling.yarn_ext_factor",
        "rope.scaling.yarn_log_multiplier",
    }
)  # fmt: skip

_ORIGINAL = 8192  # of Llama 3, whose files don't tell it
_RATIOS = (
    4.0,
    2.0,
    1.5,
    1.1,
    1.01,
    1.001,
)  # of the two wavelengths, where factors leave them open: the usual one first
# How far 1 / factor may be from the tensor's: float32 lost that much where the file was made.
_NEAR = 4e-6


@dataclass(frozen=True, slots=True)
class _Bend:
    """Frequencies of wavelengths up to `short` stay, those from `long` on are divided by `factor`."""

    factor: float
    short: float
    long: float

    def shares(self, waves: Floats) -> Floats:
        """1 / factor for each wavelength, as transformers' llama3 computes it."""
        smooth = (self.long / waves - 1) / (self.long / self.short - 1)
        between = (1 - smooth) / self.factor + smooth
        return np.where(waves < self.short, 1.0, np.where(waves > self.long, 1 / self.factor, between))


def rope_parameters(
    settings: Mapping[str, Any], *, head: int, context: int, theta: float = 10000.0, factors: Floats | None = None
) -> dict[str, Any]:
    """transformers' `rope_parameters`. NotComputed for what no static type of it computes.

    `head`: values of a head that are turned; `context`: tokens that the model takes; `theta`: where the file has none;
    `factors` [head / 2]: of the frequencies.
    """
    theta = number(settings, "rope.freq_base", theta)
    if theta <= 1:
        raise refusal("rope.freq_base", theta)
    kind = settings.get("rope.scaling.type", "linear")
    scale = number(settings, "rope.scaling.factor", number(settings, "rope.scale_linear", 1.0)) or 1.0
    if scale < 0:
        raise refusal("rope.scaling.factor", scale)
    if factors is not None and not np.allclose(factors, 1, rtol=0, atol=1e-7):
        if kind not in ("none", "linear") or (kind == "linear" and scale != 1):
            raise NotComputed(
                f"it has {FACTORS} and rope.scaling.type {told(kind)}, which aren't computed together here"
            )
        _check_unscaled(settings)
        return {**_of_factors(factors, theta, head, settings), "rope_theta": theta}
    if kind == "yarn":
        return {**_yarn(settings, scale, context), "rope_theta": theta}
    if kind not in ("none", "linear"):
        raise refusal("rope.scaling.type", kind)
    _check_unscaled(settings)
    if kind == "none" or scale == 1:
        return {"rope_type": "default", "rope_theta": theta}
    return {"rope_type": "linear", "factor": scale, "rope_theta": theta}


def _check_unscaled(settings: Mapping[str, Any]) -> None:
    """NotComputed where queries and keys are scaled too, or positions turned as yarn does without being called so."""
    neutral = {"attn_factor": (1,), "yarn_attn_factor": (1,), "yarn_ext_factor": (0, -1), "yarn_log_multiplier": (0,)}
    for name, values in neutral.items():
        if (value := settings.get(f"rope.scaling.{name}", values[0])) not in values:
            raise refusal(f"rope.scaling.{name}", value)


def _yarn(settings: Mapping[str, Any], scale: float, context: int) -> dict[str, Any]:
    original = number(settings, "rope.scaling.original_context_length", context)
    fast, slow = (
        number(settings, f"rope.scaling.yarn_beta_{name}", value) for name, value in (("fast", 32.0), ("slow", 1.0))
    )
    if original < 1 or original != int(original):
        raise refusal("rope.scaling.original_context_length", original)
    if not 0 < slow < fast:
        raise refusal("rope.scaling.yarn_beta_slow", slow)
    for name, neutral in (("ext_factor", (1, -1)), ("log_multiplier", (0,))):
        if (value := settings.get(f"rope.scaling.yarn_{name}", neutral[0])) not in neutral:
            raise refusal(f"rope.scaling.yarn_{name}", value)
    usual = 0.1 * math.log(scale) + 1 if scale > 1 else 1.0
    # Whoever wrote one of its own meant it to replace the usual factor, and llama.cpp drops it or multiplies by it.
    given = number(settings, "rope.scaling.yarn_attn_factor", usual)
    if not math.isclose(given, usual, rel_tol=1e-4):
        raise refusal("rope.scaling.yarn_attn_factor", given)
    attention = usual * number(settings, "rope.scaling.attn_factor", 1.0)
    return {
        "rope_type": "yarn",
        "factor": scale,
        "original_max_position_embeddings": int(original),
        "attention_factor": attention,
        "beta_fast": fast,
        "beta_slow": slow,
    }


def _of_factors(factors: Floats, theta: float, head: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    """llama3's parameters, which `factors` were made of. NotComputed if they weren't."""
    if factors.shape != (head // 2,) or not np.isfinite(factors).all() or factors.min() < 1 - 1e-6:
        raise NotComputed(f"its {FACTORS} are none of Llama 3's scaling of positions")
    if np.allclose(factors, factors[0], rtol=1e-6, atol=0):
        return {"rope_type": "linear", "factor": float(factors[0])}
    waves = 2 * math.pi * theta ** (np.arange(0, head, 2) / head)
    original = number(settings, "rope.scaling.original_context_length", _ORIGINAL)
    if original < 1 or original != int(original):
        raise refusal("rope.scaling.original_context_length", original)
    shares = 1 / factors
    for bend in _bends(factors, waves):
        low, high = original / bend.long, original / bend.short
        for digits in (3, 5, 17):  # numbers as people write them, where they give the same
            factor, lower, higher = (float(f"{value:.{digits}g}") for value in (bend.factor, low, high))
            rounded = _Bend(factor, original / higher, original / lower)
            if lower < higher and np.abs(rounded.shares(waves) - shares).max() < _NEAR:
                return {
                    "rope_type": "llama3",
                    "factor": factor,
                    "low_freq_factor": lower,
                    "high_freq_factor": higher,
                    "original_max_position_embeddings": int(original),
                }
    raise NotComputed(f"its {FACTORS} are none of Llama 3's scaling of positions")


def _bends(factors: Floats, waves: Floats) -> list[_Bend]:
    """Candidates: between the two wavelengths, 1 / factor is a line over 1 / wavelength."""
    most = float(factors.max())
    full, none = factors > most * (1 - 1e-6), factors < 1 + 1e-6
    found = []
    inner = ~full & ~none
    if inner.sum() > 1:
        slope, rest = _line(factors, waves, inner)
        if slope > 0 and rest < 1 / most:
            found.append(_Bend(most, slope / (1 - rest), slope / (1 / most - rest)))
    elif inner.any():
        [wave], [share] = waves[inner], 1 / factors[inner]
        smooth = (share - 1 / most) / (1 - 1 / most)
        longs = [float(wave * (1 + (ratio - 1) * smooth)) for ratio in _RATIOS]
        found += [_Bend(most, long / ratio, long) for long, ratio in zip(longs, _RATIOS, strict=True)]
    elif none.any():
        last, first = waves[none][-1], waves[full][0]
        step = (first / last) ** (1 / 3)
        found.append(_Bend(most, last * step, first / step))
    if (~none).sum() > 1:  # no wavelength may be long enough for the whole factor, so that any that fits will do
        slope, rest = _line(factors, waves, ~none)
        if slope > 0 and rest < 1:
            end = -slope / rest if rest < 0 else 4 * waves[-1]
            long = math.sqrt(waves[-1] * end) if end > waves[-1] else 0.0
            if long > waves[-1]:
                found.append(_Bend(1 / (slope / long + rest), slope / (1 - rest), long))
    return [bend for bend in found if 0 < bend.short < bend.long and bend.factor > 1]


def _line(factors: Floats, waves: Floats, chosen: NDArray[np.bool_]) -> tuple[float, float]:
    slope, rest = np.polyfit(1 / waves[chosen], 1 / factors[chosen], 1)
    return float(slope), float(rest)
