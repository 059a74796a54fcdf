"""llama.cpp's server: https://github.com/ggml-org/llama.cpp/tree/master/tools/server. It reads one GGUF file."""

from ams_common.engines import refusing
from ams_common.engines.row import EngineRow, no_variables
from ams_common.engines.wishes import EngineWishes
from ams_common.gguf_embedding import LONGEST_WORD, POOLING_WORD

_ALL_LAYERS = 999


def command(wishes: EngineWishes) -> list[str]:
    """`llama-server`. Its context is one for all slots: a request's times their number.

    Without a number it is the model's own, which the slots share as they need it.
    """
    result = ["llama-server", "--model", wishes.model]
    result += ["--alias", wishes.name, "--host", wishes.host, "--port", wishes.port]
    result += ["--parallel", str(wishes.concurrent_requests)]
    if wishes.embeds:
        # A text is computed at once, and its states stay only as long as that takes: one room is enough for all slots.
        # A larger one is slower, as all texts in it are held against each other.
        longest = str(wishes.context_tokens or LONGEST_WORD)
        result += ["--embedding", "--pooling", POOLING_WORD, "--ctx-size", longest, "--kv-unified"]
        result += ["--batch-size", longest, "--ubatch-size", longest]
    elif wishes.context_tokens is None:
        result += ["--ctx-size", "0", "--kv-unified"]
    else:
        result += ["--ctx-size", str(wishes.context_tokens * wishes.concurrent_requests)]
    result += ["--gpu-layers", str(_ALL_LAYERS if wishes.gpus else 0)]
    if wishes.cpus is not None:
        result += ["--threads", str(wishes.cpus)]
    if not wishes.prefix_cache:
        result += ["--no-cache-prompt", "--cache-ram", "0"]
    for adapter in wishes.adapters:
        result += ["--lora", adapter.path]
    if wishes.adapters:
        result += ["--lora-init-without-apply"]
    return [*result, "--jinja", "--no-webui", "--metrics"]


ROW = EngineRow(
    name="llamacpp",
    title="llama.cpp",
    program="llama-server",
    port=8090,
    command=command,
    variables=no_variables,
    rules=(
        refusing.families,
        refusing.nodes,
        refusing.text_only,
        refusing.gguf,
        refusing.quantization,
        refusing.own_precision,
        refusing.fallbacks,
        refusing.no_max_memory,
        refusing.prefix_cache,
        refusing.image_pixels,
        refusing.gguf_adapters,
    ),
    fields=(
        ("metadata.name", "`--alias`"),
        ("engine.nodes", "refused: it computes on one node"),
        ("engine.port", "`--port`"),
        ("limits.contextTokens", "`--ctx-size`, times concurrentRequests"),
        ("limits.contextTokens: auto", "`--ctx-size 0 --kv-unified`: the model's, shared by all that run"),
        ("limits.concurrentRequests", "`--parallel`"),
        (
            "(family embedding)",
            "`--embedding`, `--pooling` as the file has it, `--ctx-size`, `--batch-size` and `--ubatch-size`: the"
            " longest text, if contextTokens is auto the model's, and 8192 at most; `--kv-unified`",
        ),
        ("limits.prefixCacheTokens", "0: `--no-cache-prompt`, `--cache-ram`; a number is refused"),
        ("limits.imagePixels", "refused"),
        ("precision", "refused: a GGUF file has its own"),
        ("quantization", "none or auto: the file's; 8bit and 4bit are refused"),
        ("maxMemory", "refused: `--gpu-layers` in `engine.args`, or the memory of `engine.resources`"),
        ("resources (GPUs)", "`--gpu-layers`: all on the GPU, or none"),
        ("resources (cpu)", "`--threads`"),
        ("adapters", "`--lora`, one each, and `--lora-init-without-apply`"),
        ("(always)", "`--jinja`, `--no-webui`, `--metrics`"),
    ),
    reads_gguf=True,
)  # fmt: skip
