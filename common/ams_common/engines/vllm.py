"""vLLM, from 0.14: https://docs.vllm.ai/en/latest/cli/serve. Arguments as `vllm/engine/arg_utils.py` has them."""

import json

from ams_common.engines import refusing
from ams_common.engines.row import EngineRow
from ams_common.engines.wishes import EngineWishes, Member

_MOST_ADAPTERS_AT_ONCE = 8  # in one step, each with memory of its own on the device; others wait in the machine's
HIGHEST_LORA_RANK = 512
_RANKS = (8, 16, 32, 64, 128, 256, 320, HIGHEST_LORA_RANK)  # `MaxLoRARanks` of vllm/config/lora.py
_LARGEST_MEDIA_LIST = 64  # of one kind in one prompt; what a request may hold is bounded before it comes here


def command(wishes: EngineWishes) -> list[str]:
    """`vllm serve`. Sampling parameters that a request lacks are for who asks, not for the model's folder."""
    result = ["vllm", "serve", wishes.model]
    result += ["--served-model-name", wishes.name, "--host", wishes.host, "--port", wishes.port]
    result += ["--max-model-len", str(wishes.context_tokens or "auto")]
    result += ["--max-num-seqs", str(wishes.concurrent_requests)]
    result += ["--generation-config", "vllm", "--enable-prompt-tokens-details", "--disable-uvicorn-access-log"]
    if wishes.precision != "auto":
        result += ["--dtype", wishes.precision]
    if wishes.gpus > 1:
        result += ["--tensor-parallel-size", str(wishes.gpus)]
    if wishes.nodes > 1:
        result += ["--pipeline-parallel-size", str(wishes.nodes), "--nnodes", str(wishes.nodes)]
    if wishes.cache_bytes is not None:
        result += ["--kv-cache-memory-bytes", str(wishes.cache_bytes)]
    if not wishes.prefix_cache:
        result += ["--no-enable-prefix-caching"]
    if wishes.embeds:
        result += ["--runner", "pooling"]
    kinds = {"image": wishes.images, "video": wishes.videos, "audio": wishes.audio}
    if any(kinds.values()):
        taken = {kind: _LARGEST_MEDIA_LIST for kind, takes in kinds.items() if takes}
        result += ["--limit-mm-per-prompt", json.dumps(taken)]
    if wishes.videos:
        result += ["--media-io-kwargs", json.dumps({"video": {"num_frames": wishes.video_frames}})]
    if wishes.image_pixels is not None:
        result += ["--mm-processor-kwargs", json.dumps({"max_pixels": wishes.image_pixels})]
    if wishes.sleep:
        result += ["--enable-sleep-mode"]
    if wishes.adapters:
        room = wishes.adapter_room
        at_once = min(room, wishes.concurrent_requests, _MOST_ADAPTERS_AT_ONCE)
        result += ["--enable-lora", "--max-loras", str(at_once), "--max-cpu-loras", str(room)]
        result += ["--max-lora-rank", wishes.lora_rank]
        if not wishes.dynamic_adapters:
            modules = [json.dumps({"name": each.id, "path": each.path}) for each in wishes.adapters]
            result += ["--lora-modules", *modules]
    return result


def lora_rank(rank: int) -> int | None:
    """The least of the ranks that vLLM makes room for in which one of `rank` fits; None where there is none."""
    return next((each for each in _RANKS if each >= rank), None)


def joins(member: Member) -> list[str]:
    """Processes of all nodes meet at the leader, without Ray: the `mp` executor."""
    result = ["--node-rank", member.rank, "--master-addr", member.address]
    return result if member.leader else [*result, "--headless"]


def variables(wishes: EngineWishes) -> dict[str, str]:
    """Nothing is told to anybody. Its routes for sleeping and for adapters are for who may ask it: loopback alone."""
    told = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    told |= {"VLLM_SERVER_DEV_MODE": "1"} if wishes.sleep else {}
    return told | ({"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"} if wishes.dynamic_adapters else {})


ROW = EngineRow(
    name="vllm",
    title="vLLM",
    program="vllm",
    port=8000,
    command=command,
    variables=variables,
    rules=(
        refusing.families,
        refusing.nodes_without_gpus,
        refusing.folder,
        refusing.quantization,
        refusing.fallbacks,
        refusing.max_memory,
        refusing.prefix_cache,
        refusing.qwen_image_pixels,
        refusing.peft_adapters,
    ),
    fields=(
        ("metadata.name", "`--served-model-name`"),
        ("engine.port", "`--port`"),
        ("limits.contextTokens", "`--max-model-len`; auto: `auto`, the longest that fits"),
        ("limits.concurrentRequests", "`--max-num-seqs`"),
        ("limits.prefixCacheTokens", "0: `--no-enable-prefix-caching`; a number is refused"),
        ("limits.videoFrames", "`--media-io-kwargs`, of families that take video"),
        ("limits.imagePixels", "`--mm-processor-kwargs`, of Qwen's vision and omni families; refused for others"),
        ("precision", "`--dtype`"),
        ("quantization", "none or auto: the weights as they come, also AWQ, GPTQ, FP8; 8bit and 4bit are refused"),
        ("maxMemory", "`--kv-cache-memory-bytes`: what it leaves beside the weights, whose size must be known"),
        ("resources (GPUs)", "`--tensor-parallel-size`"),
        (
            "engine.nodes",
            "`--pipeline-parallel-size`, `--nnodes`, `--node-rank`, `--master-addr`; `--headless` but for the leader",
        ),
        ("autoscaling.idle: sleep", "`--enable-sleep-mode`"),
        (
            "adapters",
            "`--enable-lora`, `--max-loras`, `--max-cpu-loras`, `--max-lora-rank`; loaded once it runs, or by"
            " `--lora-modules`",
        ),
        ("(families that take media)", "`--limit-mm-per-prompt`"),
        ("(family embedding)", "`--runner pooling`"),
        ("(always)", "`--generation-config`, `--enable-prompt-tokens-details`, `--disable-uvicorn-access-log`"),
    ),
    sleeps=True,
    joins=joins,
    changes_adapters=True,
)  # fmt: skip
