"""What prompts need of a GGUF file: its tokenizer and configuration, without its weights.

    python -m ams_pod.engines.builtin.gguf_prompts model.gguf folder

For engines that read the file themselves. A process of its own, with the protocol of `model.gguf`.
"""

import os
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec
from ams_common.gguf_embedding import DESCRIPTION, Description, GgufEmbedding, Pooling, gguf_embedding
from ams_common.printable import printable
from ams_common.progress import Failure
from ams_common.reasons import Reason

from ams_pod.engines.builtin.model.gguf import end_tokens
from ams_pod.engines.builtin.model.gguf_file import GgufFile, read_gguf
from ams_pod.engines.prompts.embedding import MODULES

_MODES: dict[Pooling, str] = {
    "mean": "pooling_mode_mean_tokens",
    "cls": "pooling_mode_cls_token",
    "last": "pooling_mode_lasttoken",
}
_END_TOKENS = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")


class NoTokenizer(Exception):
    """The file has no tokenizer that can be read here; the message is a sentence."""


def write_prompt_files(gguf: Path, folder: Path) -> None:
    """config.json, generation_config.json and the tokenizer's files; of a model that makes vectors or scores, how it
    does. NoTokenizer."""
    try:
        file = read_gguf(gguf)
    except Exception as error:  # whatever a damaged file leads to
        raise NoTokenizer(f"{gguf.name} is not a GGUF file that can be read ({printable(str(error), 200)}).") from None
    if (embedding := gguf_embedding(file.metadata)) is not None:
        write_embedding(embedding, folder)
        return
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    architecture = printable(str(file.metadata.get("general.architecture")), 60)
    try:
        config: Any = AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name)
        tokenizer: Any = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    except Exception as error:  # whatever transformers raises for what it doesn't know
        raise NoTokenizer(
            f"The tokenizer of {gguf.name} (architecture {architecture}) can't be read, and prompts are made with it:"
            f" {printable(str(error), 200)}. Take a repository of safetensors with another engine."
        ) from None
    if (name := MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)) is not None:
        config.architectures = [name]
    template = file.metadata.get("tokenizer.chat_template")
    if isinstance(template, str) and template:
        tokenizer.chat_template = template
    generation: Any = GenerationConfig.from_model_config(config)
    generation.eos_token_id = _ends(file, tokenizer) or generation.eos_token_id
    folder.mkdir(parents=True, exist_ok=True)
    for each in (config, generation, tokenizer):
        each.save_pretrained(folder)


def write_embedding(embedding: GgufEmbedding, folder: Path) -> None:
    """As of a repository of sentence-transformers; the tokenizer is the engine's alone."""
    description = Description(embedding.pooling, embedding.config.get("max_position_embeddings"))
    files: dict[str, Any] = {"config.json": embedding.config, DESCRIPTION: description}
    if embedding.pooling != "rank":
        kinds = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
        package = "sentence_transformers.models"
        files[MODULES] = [
            {"idx": number, "name": str(number), "path": path, "type": f"{package}.{kind}"}
            for number, (path, kind) in enumerate(kinds)
        ]
    if (mode := _MODES.get(embedding.pooling)) is not None:
        files["1_Pooling/config.json"] = {mode: True}
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n")


def _ends(file: GgufFile, tokenizer: Any) -> list[int]:
    declared = [token for name in _END_TOKENS if (token := file.number(name)) is not None]
    template = tokenizer.chat_template
    return end_tokens(declared, tokenizer.get_vocab(), template if isinstance(template, str) else "")


def main(argv: list[str]) -> int:
    """0, or 1 with the failure on standard output."""
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    try:
        write_prompt_files(Path(argv[0]), Path(argv[1]))
    except NoTokenizer as error:
        failure = Failure(Reason.CONVERSION_FAILED, str(error))
    except Exception as error:  # whatever transformers raises: the person reads its sentence
        sentence = (str(error).strip().splitlines() or [""])[0][:600]
        failure = Failure(Reason.CONVERSION_FAILED, f"{Path(argv[0]).name}: {type(error).__name__}: {sentence}")
    else:
        return 0
    sys.stdout.buffer.write(msgspec.json.encode(failure) + b"\n")
    sys.stdout.flush()
    return 1


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(status)  # the thread that watches the parent still reads
