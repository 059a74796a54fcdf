"""Where the time of a media tower's call goes, by torch's operators and as it is served, beside what the cores allow.

    python benchmarks/towers.py --rounds 4 --json benchmarks/results/towers.json

Towers of random weights at the width of the real models, some of their layers, in bfloat16. Both ways are called by
turns: milliseconds of CPU time on one thread, which other programs lengthen little, then of the clock on all; medians.
A watched run says how a call divides. What the cores allow is the operations over the rate at which large matrices are
multiplied, measured by the same command. What comes before a tower (scaling, patches, the spectrogram) is timed beside.
"""

import argparse
import copy
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import ams_pod.engines.builtin  # noqa: F401  # makes torchvision importable
import engine_servers as servers
import numpy as np
import torch
from ams_pod.engines.builtin import compiled
from ams_pod.engines.builtin.towers.native import make_native
from step import measure_limits
from torch import Tensor, nn

MATMULS, ATTENTION, CONVOLUTIONS, NORMS = "matmuls", "attention", "convolutions", "layer norms"
ACTIVATIONS, REST = "activations", "rotations, sums, copies, Python"
PARTS = (MATMULS, ATTENTION, CONVOLUTIONS, NORMS, ACTIVATIONS, REST)
_OPERATORS = {
    "aten::addmm": MATMULS, "aten::mm": MATMULS, "mkldnn::_linear_pointwise": MATMULS,
    "aten::_scaled_dot_product_flash_attention_for_cpu": ATTENTION, "aten::bmm": ATTENTION, "aten::_softmax": ATTENTION,
    "aten::mkldnn_convolution": CONVOLUTIONS, "aten::native_layer_norm": NORMS, "aten::silu": ACTIVATIONS,
    "aten::gelu": ACTIVATIONS,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A tower, its call, how many of the model's layers it has, and operations of attention in all layers."""

    name: str
    layers: str
    make: Callable[[], nn.Module]
    call: Callable[[Any], object]
    attention: float


@dataclass
class Figures:
    """Seconds of both ways, by CPU time of one thread and by the clock of all; parts of the former; what is allowed."""

    name: str
    layers: str
    eager: float = 0.0
    native: float = 0.0
    eager_clock: float = 0.0
    native_clock: float = 0.0
    ratios: list[float] = field(default_factory=list)
    eager_parts: dict[str, float] = field(default_factory=dict)
    native_parts: dict[str, float] = field(default_factory=dict)
    allowed: dict[str, float] = field(default_factory=dict)


def _sdpa(config: Any) -> Any:
    config._attn_implementation = "sdpa"
    return config


def _qwen2_5_vl() -> nn.Module:
    from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as module

    config = module.Qwen2_5_VLVisionConfig(
        depth=4, hidden_size=1280, intermediate_size=3420, num_heads=16, out_hidden_size=2048,
        fullatt_block_indexes=[3],
    )  # fmt: skip
    return module.Qwen2_5_VisionTransformerPretrainedModel(_sdpa(config))


def _qwen3_vl() -> nn.Module:
    from transformers.models.qwen3_vl import modeling_qwen3_vl as module

    config = module.Qwen3VLVisionConfig(
        depth=3, hidden_size=1152, intermediate_size=4304, num_heads=16, out_hidden_size=2560,
        deepstack_visual_indexes=[],
    )  # fmt: skip
    return module.Qwen3VLVisionModel(_sdpa(config))


def _qwen2_audio() -> nn.Module:
    from transformers.models.qwen2_audio import modeling_qwen2_audio as module

    return module.Qwen2AudioEncoder(_sdpa(module.Qwen2AudioEncoderConfig(encoder_layers=3)))


def _omni_audio() -> nn.Module:
    from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as module

    return module.Qwen2_5OmniAudioEncoder(_sdpa(module.Qwen2_5OmniAudioEncoderConfig(encoder_layers=3)))


def _blip() -> nn.Module:
    from transformers.models.blip import modeling_blip as module

    return module.BlipVisionModel(module.BlipVisionConfig(image_size=384))


def _blip_text() -> nn.Module:
    from transformers.models.blip import modeling_blip_text as module

    return module.BlipTextLMHeadModel(module.BlipTextConfig(encoder_hidden_size=768))


def _pictures(side: int, *grid: int) -> Callable[[Any], object]:
    count = grid[0] * grid[1] * grid[2]
    pixels, grids = torch.randn(count, 3 * 2 * side * side).bfloat16(), torch.tensor([grid])
    return lambda tower: tower(pixels, grids)


def cases() -> list[Case]:
    def squares(width: int, *spans: tuple[int, int]) -> float:
        return 4.0 * width * sum(times * length**2 for times, length in spans)

    spectrogram = torch.randn(1, 128, 3000).bfloat16()
    picture = torch.randn(1, 3, 384, 384).bfloat16()
    ids, states = torch.full((8, 1), 5), torch.randn(8, 12, 768).bfloat16()
    return [
        Case("Qwen2.5-VL, an image of 672 × 672", "4 of 32", _qwen2_5_vl, _pictures(14, 1, 48, 48),
             squares(1280, (1, 2304), (3 * 36, 64))),
        Case("Qwen2.5-VL, 8 frames of 392 × 392", "4 of 32", _qwen2_5_vl, _pictures(14, 4, 28, 28),
             squares(1280, (4, 784), (3 * 4 * 9, 64), (3 * 4 * 6, 32), (3 * 4, 16))),
        Case("Qwen3-VL, an image of 768 × 768", "3 of 27", _qwen3_vl, _pictures(16, 1, 48, 48),
             squares(1152, (3, 2304))),
        Case("Qwen2-Audio, 30 s", "3 of 32", _qwen2_audio, lambda tower: tower(spectrogram), squares(1280, (3, 1500))),
        Case("Qwen2.5-Omni, 30 s of sound", "3 of 32", _omni_audio,
             lambda tower: tower(spectrogram[0], feature_lens=torch.tensor([3000])), squares(1280, (45, 100))),
        Case("BLIP-VQA, an image of 384 × 384", "all 12", _blip, lambda tower: tower(picture),
             squares(768, (12, 577))),
        Case("BLIP-VQA's decoder, a token of 8 rows", "all 12", _blip_text,
             lambda tower: tower(input_ids=ids, encoder_hidden_states=states, is_decoder=True), 0.0),
    ]  # fmt: skip


def measure(case: Case, rounds: int, rate: float, threads: int) -> Figures:
    torch.manual_seed(0)
    eager = case.make().to(torch.bfloat16).eval()
    native = copy.deepcopy(eager)
    if not make_native(native):
        sys.exit("towers are served by torch's operators here: kernels and bfloat16 are needed")
    figures = Figures(case.name, case.layers, allowed=_allowed(case, eager, rate))
    torch.set_num_threads(1)
    pairs = _alternate(case, eager, native, rounds, time.thread_time)
    figures.eager, figures.native = (statistics.median(each) for each in zip(*pairs, strict=True))
    figures.ratios = [before / after for before, after in pairs]
    figures.eager_parts = _divide(case, eager, figures.eager)
    figures.native_parts = _divide(case, native, figures.native)
    torch.set_num_threads(threads)
    pairs = _alternate(case, eager, native, rounds, time.perf_counter)
    figures.eager_clock, figures.native_clock = (statistics.median(each) for each in zip(*pairs, strict=True))
    return figures


def _alternate(
    case: Case, eager: nn.Module, native: nn.Module, rounds: int, clock: Callable[[], float]
) -> list[tuple[float, float]]:
    def timed(tower: nn.Module) -> float:
        started = clock()
        case.call(tower)
        return clock() - started

    timed(eager), timed(native)
    return [(timed(eager), timed(native)) for _ in range(rounds)]


def _allowed(case: Case, tower: nn.Module, rate: float) -> dict[str, float]:
    """Seconds of each part's operations at the rate of large matrices."""
    flops = {MATMULS: 0.0, CONVOLUTIONS: 0.0, ATTENTION: case.attention}

    def count(module: Any, inputs: Any, output: Tensor) -> None:
        part = MATMULS if isinstance(module, nn.Linear) else CONVOLUTIONS
        flops[part] += 2.0 * output.numel() * module.weight[0].numel()

    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    hooks = [each.register_forward_hook(count) for each in tower.modules() if isinstance(each, kinds)]
    case.call(tower)
    for hook in hooks:
        hook.remove()
    return {name: each / rate for name, each in flops.items()}


def _divide(case: Case, tower: nn.Module, seconds: float) -> dict[str, float]:
    """Of a watched call: torch's operators by their names, the kernels by their own clock; the rest of `seconds`."""
    compiled.timings()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        case.call(tower)
    parts = dict.fromkeys(PARTS, 0.0)
    parts[ATTENTION] = compiled.timings()["attention"]
    for event in profile.key_averages():
        if (part := _OPERATORS.get(event.key)) is not None:
            parts[part] += event.self_cpu_time_total / 1e6
    scale = min(1.0, seconds / max(1e-9, sum(parts.values())))
    parts = {name: part * scale for name, part in parts.items()}
    return parts | {REST: max(0.0, seconds - sum(parts.values()))}


def preparation() -> dict[str, float]:
    """Seconds of what comes before a tower, of one picture and one clip."""
    from PIL import Image
    from transformers import Qwen2VLImageProcessor, WhisperFeatureExtractor

    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (960, 1280, 3), np.uint8))
    processor, extractor = Qwen2VLImageProcessor(), WhisperFeatureExtractor(feature_size=128)
    sound = np.random.default_rng(0).standard_normal(30 * 16_000).astype(np.float32)

    def timed(call: Callable[[], object]) -> float:
        call()
        started = time.thread_time()
        call()
        return time.thread_time() - started

    return {
        "a picture scaled to 672 × 672": timed(lambda: picture.resize((672, 672), Image.Resampling.BICUBIC)),
        "its patches": timed(lambda: processor(picture.resize((672, 672)), do_resize=False, return_tensors="pt")),
        "the spectrogram of 30 s": timed(lambda: extractor(sound, sampling_rate=16_000, return_tensors="pt")),
    }


def table(figures: list[Figures], rate: float, threads: int) -> str:
    lines = [
        f"{rate / 1e9:.0f} GFLOP/s of matrices on one thread; {threads} threads by the clock. Milliseconds:",
        "",
        "| tower | layers | allowed | torch | served | ratio | share of allowed | clock: torch, served |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for each in figures:
        allowed = sum(each.allowed.values())
        cells = [
            each.name, each.layers, *(f"{1e3 * seconds:.0f}" for seconds in (allowed, each.eager, each.native)),
            f"**{statistics.median(each.ratios):.2f} ×**",
            f"{100 * allowed / each.eager:.0f} → **{100 * allowed / each.native:.0f} %**",
            f"{each.eager_clock * 1e3:.0f}, {each.native_clock * 1e3:.0f}"
            f" ({each.eager_clock / each.native_clock:.2f} ×)",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| part | " + " | ".join(each.name for each in figures) + " |", "|---|" + "---|" * len(figures)]
    for part in PARTS:
        cells = []
        for each in figures:
            least = f" ({each.allowed[part] * 1e3:.0f})" if each.allowed.get(part) else ""
            cells.append(f"{each.eager_parts[part] * 1e3:.0f} → {each.native_parts[part] * 1e3:.0f}{least}")
        lines.append(f"| {part} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4, help="calls of each way (default 4)")
    parser.add_argument("--only", default="", help="towers whose name has this in it")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(1)
    rate = measure_limits(torch.bfloat16).flops
    figures = []
    for case in cases():
        if arguments.only in case.name:
            figures.append(measure(case, arguments.rounds, rate, threads))
            print(f"{case.name}: {figures[-1].eager:.3f} s, {figures[-1].native:.3f} s", file=sys.stderr, flush=True)
    torch.set_num_threads(1)
    rate_behind = measure_limits(torch.bfloat16).flops
    if rate_behind > rate:
        for each in figures:
            each.allowed = {name: part * rate / rate_behind for name, part in each.allowed.items()}
        rate = rate_behind
    before = preparation()
    print(table(figures, rate, threads))
    print("\nBefore a tower, ms: " + ", ".join(f"{name} {each * 1e3:.0f}" for name, each in before.items()))
    if arguments.json:
        servers.save(arguments.json, {
            "machine": servers.machine(), "flops_per_second_of_a_thread": rate, "threads": threads,
            "figures": [asdict(each) for each in figures], "preparation_seconds": before,
        })  # fmt: skip


if __name__ == "__main__":
    with torch.inference_mode():
        main()
