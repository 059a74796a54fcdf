"""Convert a GGUF file once to a folder of safetensors, tokenizer and configuration, in bfloat16.

    python -m ams_pod.engines.builtin.model.gguf model.gguf folder

Runs as a process of its own, so that the downloader never loads torch and its memory is given back. Standard input
is a pipe that the parent holds: when it closes, the parent is gone and this process ends. A failure is one JSON line
{reason, message, retryable} on standard output, exit status 1.
"""

import os
import shutil
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
from ams_common.printable import printable
from ams_common.progress import Failure
from ams_common.reasons import Reason

from ams_pod.engines.builtin.model.gguf_header import check_header

# Tokens that end an assistant's turn in common chat formats. GGUF has room for one id as "eos", which for some
# models is the end of a text and not of a turn.
_END_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<|end|>", "<|end_of_turn|>", "</s>")
_SPARE_BYTES = 64 << 20


class _NotConverted(Exception):
    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.failure = Failure(reason, message)


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Write `folder` (made if absent) from the GGUF file; it then loads with `from_pretrained(folder)`."""
    metadata, parameters = _describe(gguf)
    folder.mkdir(parents=True, exist_ok=True)
    _check_space(folder, needed=2 * parameters)

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16)
    tokenizer: Any = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # save_pretrained refuses a model that remembers its quantized origin.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    if template := metadata.get("tokenizer.chat_template"):
        tokenizer.chat_template = template
    model.generation_config.eos_token_id = (
        end_tokens(
            _numbers(
                metadata, "tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"
            ),
            tokenizer.get_vocab(),
            template or "",
        )
        or model.generation_config.eos_token_id
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def end_tokens(declared: Iterable[int], vocabulary: dict[str, int], template: str) -> list[int]:
    """The ids that end an answer: those that the file declares, and the ends of a turn that its template writes."""
    written = (vocabulary[token] for token in _END_OF_TURN if token in vocabulary and token in template)
    return list(dict.fromkeys([*declared, *written]))


def _describe(gguf: Path) -> tuple[dict[str, Any], int]:
    from gguf import GGUFReader

    try:
        check_header(gguf)
        reader = GGUFReader(str(gguf))
        names = {name for name in reader.fields if name.startswith("tokenizer.") and name.count("ggml.tokens") == 0}
        told = {name: reader.fields[name] for name in names if "merges" not in name and "scores" not in name}
        metadata = {name: field.contents() for name, field in told.items()}
        parameters = sum(int(tensor.n_elements) for tensor in reader.tensors)
    except MemoryError:
        raise
    except Exception as error:  # the reader takes what the file says for granted
        sentence = printable(str(error), 200)
        raise _NotConverted(
            Reason.CONVERSION_FAILED, f"{gguf.name} is not a GGUF file that can be read ({sentence})."
        ) from None
    return metadata, parameters


def _numbers(metadata: dict[str, Any], *names: str) -> list[int]:
    return [int(metadata[name]) for name in names if isinstance(metadata.get(name), int)]


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed + _SPARE_BYTES > free:
        raise _NotConverted(
            Reason.DISK_FULL,
            f"{folder.parent} has {free >> 20} MiB free and the converted model needs"
            f" {(needed + _SPARE_BYTES) >> 20} MiB; enlarge the volume (spec.cache.size) or remove what isn't used.",
        )


def _end_with_parent() -> None:
    def watch() -> None:
        sys.stdin.buffer.read()
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def main(argv: list[str]) -> int:
    """Convert argv[0] into the folder argv[1]; 0, or 1 with the failure on standard output."""
    _end_with_parent()
    try:
        convert_gguf(Path(argv[0]), Path(argv[1]))
    except _NotConverted as error:
        failure = error.failure
    except MemoryError:
        failure = Failure(
            Reason.CONVERSION_FAILED, f"{Path(argv[0]).name} needs more memory to be converted than there is."
        )
    except Exception as error:  # whatever transformers raises: the person reads its sentence
        sentence = (str(error).strip().splitlines() or [""])[0][:600]
        failure = Failure(Reason.CONVERSION_FAILED, f"{Path(argv[0]).name}: {type(error).__name__}: {sentence}")
    else:
        return 0
    sys.stdout.buffer.write(msgspec.json.encode(failure) + b"\n")
    sys.stdout.flush()
    return 1


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(status)  # the thread that watches the parent still reads
