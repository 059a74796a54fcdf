"""Options of Hugging Face's text-generation-inference and text-embeddings-inference, as arguments or variables.

Neither is an engine here: `auto` chooses one that serves the same model. Names as in launcher/src/main.rs and
router/src/main.rs.
"""

import re
from collections.abc import Callable, Mapping, Sequence

from ams_cli.importing import vllm_options
from ams_cli.importing.results import Draft, NotImported
from ams_cli.importing.servers import TEI
from ams_cli.importing.words import options

_PRECISIONS = {"float16": "float16", "bfloat16": "bfloat16", "float32": "float32", "half": "float16"}
_BITS = {
    "bitsandbytes": "8bit", "bitsandbytes-nf4": "4bit", "bitsandbytes-fp4": "4bit", "eetq": "8bit",
}  # fmt: skip
_OF_WEIGHTS = ("awq", "gptq", "marlin", "exl2", "compressed-tensors")
_SERVERS_OWN = (
    "--port", "--hostname", "--json-output", "--otlp-endpoint", "--otlp-service-name", "--cors-allow-origin",
    "--shard-uds-path", "--master-addr", "--master-port", "--huggingface-hub-cache", "--weights-cache-override",
    "--disable-usage-stats", "--usage-stats", "--env", "--prometheus-port", "--uds-path", "--disable-custom-kernels",
    "--hf-api-token", "--quiet", "--waiting-served-ratio", "--max-waiting-tokens", "--validation-workers",
    "--tokenization-workers", "--tokenizer-config-path",
)  # fmt: skip
_VARIABLES = {  # whose names aren't the option's
    "MAX_INPUT_TOKENS": "--max-input-tokens", "MAX_INPUT_LENGTH": "--max-input-length",
    "MAX_TOTAL_TOKENS": "--max-total-tokens", "MODEL_ID": "--model-id", "REVISION": "--revision",
    "NUM_SHARD": "--num-shard", "SHARDED": "--sharded", "QUANTIZE": "--quantize", "DTYPE": "--dtype",
    "MAX_CONCURRENT_REQUESTS": "--max-concurrent-requests", "MAX_BATCH_PREFILL_TOKENS": "--max-batch-prefill-tokens",
    "MAX_BATCH_TOTAL_TOKENS": "--max-batch-total-tokens", "MAX_BATCH_SIZE": "--max-batch-size",
    "TRUST_REMOTE_CODE": "--trust-remote-code", "CUDA_MEMORY_FRACTION": "--cuda-memory-fraction",
    "POOLING": "--pooling", "MAX_BATCH_TOKENS": "--max-batch-tokens",
    "MAX_CLIENT_BATCH_SIZE": "--max-client-batch-size",
    "AUTO_TRUNCATE": "--auto-truncate", "DEFAULT_PROMPT": "--default-prompt", "API_KEY": "--api-key",
    "SERVED_MODEL_NAME": "--served-model-name", "PORT": "--port", "HOSTNAME": "--hostname",
    "HF_API_TOKEN": "--hf-api-token", "LORA_ADAPTERS": "--lora-adapters", "SPECULATE": "--speculate",
    "MAX_BEST_OF": "--max-best-of", "MAX_STOP_SEQUENCES": "--max-stop-sequences",
    "PAYLOAD_LIMIT": "--payload-limit", "DISABLE_CUSTOM_KERNELS": "--disable-custom-kernels",
}  # fmt: skip


def from_variables(variables: Mapping[str, str]) -> list[str]:
    """The options that variables stand for."""
    return [f"{_VARIABLES[name]}={value}" for name, value in variables.items() if name in _VARIABLES and value]


def is_option(variable: str) -> bool:
    return variable in _VARIABLES


def apply(draft: Draft, server: str, words: Sequence[str], where: str, source: Callable[[str, str], str]) -> int:
    """Put options into fields; how many GPUs share the weights, 0 if that isn't told. `source` reads a model's name."""
    shards = 0
    revision = ""
    for option in options(words):
        name, value, at = option.name, option.value, f"{where} {option.name}"
        match name:
            case "--model-id":
                draft.set("model.source", source(value, at))
            case "--revision":
                revision = value
            case "--num-shard" if re.fullmatch(r"[1-9][0-9]{0,2}", value):
                shards = int(value)
            case "--dtype" if value in _PRECISIONS:
                draft.set("precision", _PRECISIONS[value])
            case "--quantize" if value in _BITS:
                draft.set("quantization", _BITS[value])
            case "--quantize" if value in _OF_WEIGHTS:
                draft.say(at, "not needed: it is read from the weights")
            case "--max-total-tokens" if (count := vllm_options.tokens(value)) is not None:
                draft.set("limits.contextTokens", count)
            case "--max-input-length" | "--max-input-tokens":
                draft.lose(f"{at} ({value})", "limits.contextTokens bounds prompt and answer together")
            case "--max-concurrent-requests" if (count := vllm_options.tokens(value)) is not None:
                draft.set("limits.queuedRequests", count)
                draft.say(at, "of waiting and running requests together: limits.queuedRequests; further ones get 429")
            case "--max-batch-size" if (count := vllm_options.tokens(value)) is not None:
                vllm_options.set_requests(draft, count, at)
            case "--served-model-name":
                draft.aliases += option.values
            case "--pooling":
                draft.say(at, "not needed: how texts are pooled is read from the model's files")
            case "--sharded":
                draft.say(at, "not needed: the weights are on all GPUs that are asked for")
            case "--trust-remote-code":
                draft.lose(at, "code in a model's repository is neither downloaded nor run")
            case "--lora-adapters":
                draft.lose(at, "name adapters in spec.adapters, and ask for them as MODEL:NAME")
            case "--api-key":
                draft.lose(at, "keys are made by `ams keys`")
            case _ if name in _SERVERS_OWN:
                draft.say(at, "not needed: of that server itself")
            case _:
                draft.lose(at if name else f"{where} {value}", f"of {server}")
    if draft.get("model.source") is None:
        raise NotImported(f"{where}: names no model; --model-id and MODEL_ID do")
    draft.set("model.source", vllm_options.with_revision(draft.get("model.source"), revision))
    if server == TEI:
        draft.set("model.family", "embedding")
    draft.say(
        "engine.name",
        f"{server} is no engine here: auto chooses one, and status.engine says which and why; clients name the model, "
        "as OpenAI's protocol wants, on its routes",
    )
    return shards
