"""What quantizing costs in quality: perplexity of a text, unquantized, in our 8 and 4 bits, and in bitsandbytes' nf4.

    python benchmarks/perplexity.py FOLDER [--off-grid] [--text FILE] [--windows 40] [--json FILE]

FOLDER holds a causal language model in bfloat16 (or a converted GGUF file, which is measured as it is). All weights are
computed with dequantized, by transformers' own forward, so that the kernels' rounding is not in it. The text is this
repository's documentation, unless another is given.

Weights that were quantized before lie on a grid, which quantizing finds again: it would seem to cost nothing.
--off-grid scales the channels of a Llama-style model by random factors, and what reads them by their inverse, so that
the model computes the same with other weights.
"""

import argparse
import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from ams_pod.engines.builtin.memory.placing import Placement
from ams_pod.engines.builtin.model.grouping import dequantize_modules
from ams_pod.engines.builtin.model.weights import load_weights, weight_bytes
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

WINDOW = 512  # tokens that are read at once; the first half isn't counted
ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--off-grid", action="store_true")
    parser.add_argument("--text", type=Path)
    parser.add_argument("--windows", type=int, default=40)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    text = arguments.text.read_text("utf-8") if arguments.text else documentation()
    ids = torch.tensor(AutoTokenizer.from_pretrained(arguments.folder)(text)["input_ids"])
    windows = ids[: len(ids) // WINDOW * WINDOW].view(-1, WINDOW)[: arguments.windows]
    with tempfile.TemporaryDirectory() as scratch:
        folder = off_grid(arguments.folder, Path(scratch)) if arguments.off_grid else arguments.folder
        results = compare(folder, windows)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


def compare(folder: Path, windows: torch.Tensor) -> dict[str, dict[str, float]]:
    own = "quantization_config" in json.loads((folder / "config.json").read_text())
    results = {}
    for kind in ["as it is"] if own else ["bfloat16", "8bit", "4bit", "nf4"]:
        begun = time.perf_counter()
        model = load(folder, kind)
        seconds = time.perf_counter() - begun
        size = weight_bytes(model)
        dequantize_modules(model)
        results[kind] = {"perplexity": perplexity(model, windows), "weights_mib": size / 2**20, "load_s": seconds}
        print(f"{kind:10} {results[kind]['perplexity']:8.3f}  {size / 2**20:8.1f} MiB  {seconds:5.1f} s", flush=True)
    return results


@torch.inference_mode()
def off_grid(folder: Path, scratch: Path) -> Path:
    """A copy in `scratch` that computes the same with other weights."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        scale_channels(generator, [layer.input_layernorm], [attention.q_proj, attention.k_proj, attention.v_proj])
        scale_channels(generator, [layer.post_attention_layernorm], [mlp.gate_proj, mlp.up_proj])
        scale_channels(generator, [mlp.up_proj], [mlp.down_proj])
    model.bfloat16().save_pretrained(scratch)
    return scratch


def scale_channels(generator: torch.Generator, makers: list[Any], readers: list[Any]) -> None:
    """What the makers make times 0.7 to 1.4, channel by channel, which the readers undo."""
    channels = readers[0].weight.shape[1]
    factors = 2 ** (torch.rand(channels, generator=generator) - 0.5)
    for module in makers:
        module.weight.mul_(factors if module.weight.dim() == 1 else factors[:, None])
    for module in readers:
        module.weight.div_(factors)


def documentation() -> str:
    return "\n\n".join(path.read_text("utf-8") for path in [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))])


def load(folder: Path, kind: str) -> Any:
    if kind == "nf4":
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=torch.bfloat16,
            llm_int8_skip_modules=["lm_head"],
        )
        return AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.bfloat16, device_map={"": "cpu"}, quantization_config=config
        ).eval()
    quantization: Any = kind if kind in ("4bit", "8bit") else "none"
    placement = Placement("cpu", torch.bfloat16, quantization, keeps_groups=True)
    return load_weights(AutoModelForCausalLM, folder, placement, lambda phase, percent: None)


@torch.inference_mode()
def perplexity(model: Any, windows: torch.Tensor) -> float:
    """Of the second halves of windows [windows, tokens]."""
    total, half = 0.0, WINDOW // 2
    for window in windows:
        logits = model(input_ids=window[None]).logits[0, half - 1 : -1].float()
        total += float(torch.nn.functional.cross_entropy(logits, window[half:], reduction="sum"))
    return math.exp(total / (len(windows) * half))


if __name__ == "__main__":
    main()
