"""What turns texts into tokens and back needs no torch: engines that compute elsewhere must start without it."""

import subprocess
import sys
from pathlib import Path

from fakehub import checkpoints

_PROGRAM = """
import sys
from pathlib import Path
from ams_pod.engines.prompts.folder import load_tokenizer
from ams_pod.engines.prompts.text import TextPrompts, sampling_defaults, stop_tokens
folder = Path(sys.argv[1])
tokenizer = load_tokenizer(folder)
prompts = TextPrompts(tokenizer, 512)
ids = prompts.chat([{"role": "user", "content": "hello"}]).ids
print(len(ids) > 0, bool(stop_tokens(folder, tokenizer)), sampling_defaults(folder) is not None)
detokenizer, ids = prompts.detokenizer(), list(ids)
print(prompts.text_of(ids) != "", isinstance(detokenizer.push(ids[0]), str), isinstance(prompts.token_bytes(0), bytes))
print(sorted({"torch", "torchvision", "safetensors", "accelerate"} & set(sys.modules)))
"""


def test_a_prompt_is_made_without_torch(tmp_path: Path) -> None:
    checkpoints.make("llama", tmp_path / "model")
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(tmp_path / "model")], capture_output=True, text=True, timeout=100
    )
    assert done.stdout.splitlines() == ["True True True", "True True True", "[]"], done.stderr
