"""The tiny model that downloads are tested with."""

import random

MIB = 1 << 20
WEIGHTS = random.Random(0).randbytes(3 * MIB)
TINY: dict[str, bytes] = {
    "config.json": b'{"model_type": "tiny"}',
    "tokenizer.json": b"{}",
    "README.md": b"# tiny",
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"pickled",
}
READ = {"config.json", "tokenizer.json", "model.safetensors"}  # what of it is fetched
