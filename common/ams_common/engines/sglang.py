"""SGLang, from 0.5.5: https://docs.sglang.io/advanced_features/server_arguments.html."""

import json

from ams_common.engines import refusing
from ams_common.engines.row import EngineRow, no_variables
from ams_common.engines.wishes import AdapterWish, EngineWishes, Member

_MEETING_PORT = 20000  # of the leader, where processes of all nodes meet
_MOST_ADAPTERS_AT_ONCE = 8  # in one batch, beside the model without any, each with memory of its own on the device


def command(wishes: EngineWishes) -> list[str]:
    """`sglang serve`. Sampling parameters that a request lacks are for who asks, not for the model's folder."""
    result = ["sglang", "serve", "--model-path", wishes.model]
    result += ["--served-model-name", wishes.name, "--host", wishes.host, "--port", wishes.port]
    result += ["--max-running-requests", str(wishes.concurrent_requests)]
    result += ["--sampling-defaults", "openai", "--enable-metrics", "--enable-cache-report"]
    if wishes.context_tokens is not None:
        result += ["--context-length", str(wishes.context_tokens)]
    if wishes.precision != "auto":
        result += ["--dtype", wishes.precision]
    if wishes.gpus * wishes.nodes > 1:
        result += ["--tp-size", str(wishes.gpus * wishes.nodes)]
    if wishes.nodes > 1:
        result += ["--nnodes", str(wishes.nodes)]
    if not wishes.prefix_cache:
        result += ["--disable-radix-cache"]
    if wishes.embeds:
        result += ["--is-embedding"]
    if wishes.images or wishes.audio:  # videos come to it as frames, which it doesn't take
        result += ["--enable-multimodal"]
    if wishes.adapters:
        at_once = min(wishes.adapter_room, _MOST_ADAPTERS_AT_ONCE) + 1
        result += ["--enable-lora", "--max-loras-per-batch", str(at_once)]
        if wishes.dynamic_adapters:  # which the first adapters would tell it otherwise
            result += ["--max-lora-rank", wishes.lora_rank, "--lora-target-modules", "all"]
        else:
            result += ["--lora-paths", *(json.dumps(_module(each)) for each in wishes.adapters)]
    return result


def _module(adapter: AdapterWish) -> dict[str, object]:
    return {"lora_name": adapter.name, "lora_path": adapter.path, "pinned": False}


def joins(member: Member) -> list[str]:
    """Those that aren't the leader answer nothing but their own health route."""
    return ["--node-rank", member.rank, "--dist-init-addr", f"{member.address}:{_MEETING_PORT}"]


ROW = EngineRow(
    name="sglang",
    title="SGLang",
    program="sglang",
    port=30000,
    command=command,
    variables=no_variables,
    rules=(
        refusing.families,
        refusing.nodes_without_gpus,
        refusing.folder,
        refusing.quantization,
        refusing.fallbacks,
        refusing.no_max_memory,
        refusing.prefix_cache,
        refusing.image_pixels,
        refusing.video_frames,
        refusing.peft_adapters,
    ),
    fields=(
        ("metadata.name", "`--served-model-name`"),
        ("engine.port", "`--port`"),
        ("limits.contextTokens", "`--context-length`"),
        ("limits.concurrentRequests", "`--max-running-requests`"),
        ("limits.prefixCacheTokens", "0: `--disable-radix-cache`; a number is refused"),
        ("limits.videoFrames", "refused: it gets no videos"),
        ("limits.imagePixels", "refused"),
        ("precision", "`--dtype`"),
        ("quantization", "none or auto: the weights as they come, also AWQ, GPTQ, FP8; 8bit and 4bit are refused"),
        ("maxMemory", "refused: `--mem-fraction-static` in `engine.args` is a part of the GPU, not bytes"),
        ("resources (GPUs)", "`--tp-size`: those of all nodes together"),
        ("engine.nodes", "`--nnodes`, `--node-rank`, `--dist-init-addr`"),
        (
            "adapters",
            "`--enable-lora`, `--max-loras-per-batch`, `--max-lora-rank`, `--lora-target-modules`; loaded once it runs,"
            " or by `--lora-paths`",
        ),
        ("(family embedding)", "`--is-embedding`; models that pool by the last token"),
        ("(families that take media)", "`--enable-multimodal`"),
        ("(always)", "`--sampling-defaults`, `--enable-metrics`, `--enable-cache-report`"),
    ),
    joins=joins,
    changes_adapters=True,
)  # fmt: skip
