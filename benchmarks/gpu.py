"""Tokens a second on an NVIDIA GPU: our engine beside transformers' continuous batching.

    python benchmarks/gpu.py [--parameters 8|0.1] [--streams 1,8,32] [--quantization none] [--json FILE]

A Qwen3 of 8 billion random parameters in bfloat16 (or a tenth of a billion, to try the script), prompts of 64 tokens,
128 new tokens each, greedy, no end of text. Engines run without HTTP, one after the other in the same process, after a
warm-up; the first token of each request counts.
"""

import argparse
import gc
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from ams_common.pod_settings import Quantization

PROMPT_TOKENS, NEW_TOKENS = 64, 128
SIZES = {
    "8": {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32,
          "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151_936},
    "0.1": {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 8,
            "num_key_value_heads": 4, "head_dim": 64, "vocab_size": 151_936},
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", choices=SIZES, default="8")
    parser.add_argument("--streams", default="1,8,32")
    parser.add_argument("--quantization", choices=["none", "8bit", "4bit"], default="none")
    parser.add_argument("--peer", action=argparse.BooleanOptionalAction, default=True, help="measure transformers too")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("There is no NVIDIA GPU, or torch is built without CUDA.", file=sys.stderr)
        return 1
    streams = [int(count) for count in arguments.streams.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder), SIZES[arguments.parameters])
        results: dict[str, Any] = {
            "gpu": torch.cuda.get_device_name(),
            "torch": torch.__version__,
            "parameters_billions": float(arguments.parameters),
            "quantization": arguments.quantization,
            "ours": ours(Path(folder), streams, arguments.quantization),
        }
        gc.collect()
        torch.cuda.empty_cache()
        if arguments.peer and arguments.quantization == "none":
            results["transformers"] = peer(Path(folder), streams)
    for name in ("ours", "transformers"):
        if name in results:
            print(name, {count: round(rate, 1) for count, rate in results[name].items()})
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return 0


def make_model(folder: Path, size: dict[str, int]) -> None:
    """A random checkpoint with a tokenizer of one word."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(**size, max_position_embeddings=32_768, tie_word_embeddings=False)
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = Qwen3ForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    words = {f"w{index}": index for index in range(size["vocab_size"])}
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words, unk_token="w0"))).save_pretrained(folder)
    del model
    gc.collect()
    torch.cuda.empty_cache()


def prompts(count: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(count)
    drawn: list[list[int]] = torch.randint(100, 100_000, (count, PROMPT_TOKENS), generator=generator).tolist()
    return drawn


def ours(folder: Path, streams: list[int], quantization: Quantization) -> dict[int, float]:
    from ams_common.pod_settings import ServeSettings
    from ams_pod.engines.builtin.loading import load_engine
    from ams_pod.engines.port import Prepared, Sampling

    settings = ServeSettings(
        name="m", source="file:///m", family="text", quantization=quantization, concurrent_requests=max(streams),
        context_tokens=1024,
    )  # fmt: skip
    started = time.perf_counter()
    engine: Any = load_engine(folder, settings, lambda events: None, lambda phase, percent: None)
    info = engine.info
    print(f"loaded in {time.perf_counter() - started:.1f} s: {info.engine}, {info.weights_bytes / 2**30:.1f} GiB")
    rates = {}
    for count in [max(streams), *streams]:  # the first is the warm-up
        for ids in prompts(count):
            engine.submit(Prepared(ids), Sampling(NEW_TOKENS, ignore_eos=True), None)
        torch.cuda.synchronize()
        started = time.perf_counter()
        while engine.core.step():
            pass
        rates[count] = count * NEW_TOKENS / (time.perf_counter() - started)
    return rates


def peer(folder: Path, streams: list[int]) -> dict[int, float]:
    """transformers' `generate_batch`, its own continuous batching."""
    from transformers import AutoModelForCausalLM, GenerationConfig

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, device_map="cuda").eval()
    config = GenerationConfig(max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=-1, pad_token_id=0)
    rates = {}
    for count in [max(streams), *streams]:
        torch.cuda.synchronize()
        started = time.perf_counter()
        with torch.inference_mode():
            made = model.generate_batch(prompts(count), generation_config=config, persistent_manager=True)
        seconds = time.perf_counter() - started
        tokens = sum(len(each.generated_tokens) for each in made.values())
        rates[count] = tokens / seconds
    return rates


if __name__ == "__main__":
    raise SystemExit(main())
