"""Convert a GGUF file once to a folder of safetensors, tokenizer and configuration.

Quantized weights stay as the file has them where `gguf_folder` knows the architecture; else they become bfloat16. A
file with a setting or a tensor that isn't computed with here is refused by its name.

    python -m ams_pod.engines.builtin.model.gguf model.gguf folder

Runs as a process of its own, so that the downloader never loads torch and its memory is given back. Standard input
is a pipe that the parent holds: when it closes, the parent is gone and this process ends. A failure is one JSON line
{reason, message, retryable} on standard output, exit status 1.
"""

import logging
import os
import shutil
import sys
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
from ams_common.printable import printable
from ams_common.progress import Failure
from ams_common.reasons import Reason

from ams_pod.engines.builtin.model.gguf_file import GgufFile, read_gguf
from ams_pod.engines.builtin.model.gguf_folder import Plan, Unplanned, plan, write_weights
from ams_pod.engines.builtin.model.gguf_foreign import check_tensors, read_config
from ams_pod.engines.builtin.model.gguf_rope import FACTORS
from ams_pod.engines.builtin.model.gguf_settings import NotComputed, NotWhole, why_not_converted

log = logging.getLogger(__name__)

# Tokens that end an assistant's turn in common chat formats. GGUF has room for one id as "eos", which for some
# models is the end of a text and not of a turn.
_END_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<|end|>", "<|end_of_turn|>", "</s>")
_END_TOKENS = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")
_SPARE_BYTES = 64 << 20


class _NotConverted(Exception):
    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.failure = Failure(reason, message)


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Write `folder` (made if absent) from the GGUF file; `load_weights` then loads it."""
    file = _describe(gguf)
    try:
        _convert(file, folder)
    except NotComputed as reason:
        raise _NotConverted(Reason.CONVERSION_FAILED, why_not_converted(gguf.name, reason)) from None


def _convert(file: GgufFile, folder: Path) -> None:
    try:
        made = plan(file)
    except Unplanned as reason:
        log.warning("%s is converted to bfloat16: %s isn't kept as it is", file.path.name, reason)
        folder.mkdir(parents=True, exist_ok=True)
        _check_space(folder, needed=2 * file.parameters)
        _convert_plain(file, reason.config, folder)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        _check_space(folder, needed=made.size)
        _convert_as_it_is(file, made, folder)


def _convert_as_it_is(file: GgufFile, made: Plan, folder: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        written = pool.submit(write_weights, file, made, folder)  # meanwhile transformers is imported, for seconds
        config, tokenizer = _config_and_tokenizer(file, made)
        written.result()
    from transformers import GenerationConfig

    generation: Any = GenerationConfig.from_model_config(config)
    _set_ends(generation, tokenizer, file)
    for each in (config, generation, tokenizer):
        each.save_pretrained(folder)


def _config_and_tokenizer(file: GgufFile, made: Plan) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoTokenizer, modeling_gguf_pytorch_utils

    # Transformers would read the file once more, for seconds, to learn of which class the tokenizer is.
    own = {name: value for name, value in made.config.items() if name != "quantization_config"}
    reading: Any = modeling_gguf_pytorch_utils
    reading.load_gguf_checkpoint = lambda *_, **__: {"config": own}
    tokenizer: Any = AutoTokenizer.from_pretrained(file.path.parent, gguf_file=file.path.name)
    return AutoConfig.for_model(**made.config), tokenizer


def _convert_plain(file: GgufFile, known: dict[str, Any] | None, folder: Path) -> None:
    """`known`: config.json, where the architecture is one of `gguf_folder`."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    gguf = file.path
    config: Any = read_config(file) if known is None else AutoConfig.for_model(**known)
    if known is None:
        check_tensors(file, config)
    model: Any
    model, told = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, config=config, dtype=torch.bfloat16, output_loading_info=True
    )
    _check_loaded(told)
    tokenizer: Any = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # save_pretrained refuses a model that remembers its quantized origin.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    _set_ends(model.generation_config, tokenizer, file)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _check_loaded(told: dict[str, Any]) -> None:
    """NotComputed where weights were made up or left over: transformers only logs that."""
    if missing := told.get("missing_keys"):
        raise NotWhole(f"it has nothing for the weight {printable(min(missing), 120)}")
    if surplus := set(told.get("unexpected_keys") or ()) - {FACTORS}:
        raise NotComputed(f"its tensor {printable(min(surplus), 120)} isn't computed with here")


def _set_ends(generation: Any, tokenizer: Any, file: GgufFile) -> None:
    """Put the file's chat template into the tokenizer, and the ends of an answer into the generation config."""
    template = file.metadata.get("tokenizer.chat_template")
    if isinstance(template, str) and template:
        tokenizer.chat_template = template
    declared = [file.number(name) for name in _END_TOKENS]
    vocabulary, written = tokenizer.get_vocab(), template if isinstance(template, str) else ""
    ends = end_tokens([token for token in declared if token is not None], vocabulary, written)
    generation.eos_token_id = ends or generation.eos_token_id


def end_tokens(declared: Iterable[int], vocabulary: dict[str, int], template: str) -> list[int]:
    """The ids that end an answer: those that the file declares, and the ends of a turn that its template writes."""
    written = (vocabulary[token] for token in _END_OF_TURN if token in vocabulary and token in template)
    return list(dict.fromkeys([*declared, *written]))


def _describe(gguf: Path) -> GgufFile:
    try:
        return read_gguf(gguf)
    except MemoryError:
        raise
    except Exception as error:  # whatever a damaged file leads to
        sentence = printable(str(error), 200)
        raise _NotConverted(
            Reason.CONVERSION_FAILED, f"{gguf.name} is not a GGUF file that can be read ({sentence})."
        ) from None


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
