"""vLLM's options as fields of a ModelDeployment; what no field says stays an argument of the engine."""

import re
from collections.abc import Sequence

from ams_cli.importing.results import Draft
from ams_cli.importing.words import Option, options

_PRECISIONS = {
    "auto": "auto", "bfloat16": "bfloat16", "float16": "float16", "half": "float16", "float32": "float32",
    "float": "float32",
}  # fmt: skip
_TOOL_PARSERS = {
    "hermes": "hermes", "qwen3_coder": "qwen3-coder", "qwen3_xml": "qwen3-coder", "llama3_json": "llama3",
    "deepseek_v3": "deepseek", "deepseek_v31": "deepseek-v3.1", "mistral": "mistral-v11", "pythonic": "pythonic",
    "llama4_pythonic": "pythonic",
}  # fmt: skip
_OURS = "not needed: the gateway and the pod in front of the engine do this"
_NOT_NEEDED = {
    **dict.fromkeys(
        ("--host", "--port", "--uds", "--root-path", "--uvicorn-log-level", "--disable-uvicorn-access-log",
         "--disable-log-requests", "--no-enable-log-requests", "--enable-log-requests", "--disable-fastapi-docs",
         "--disable-frontend-multiprocessing", "--enable-server-load-tracking", "--enable-request-id-headers"),
        _OURS,
    ),
    **dict.fromkeys(
        ("--enable-auto-tool-choice", "--reasoning-parser", "--enable-reasoning"),
        "not needed: tools and reasoning are read in front of the engine",
    ),
    "--enable-prefix-caching": "not needed: limits.prefixCacheTokens is auto",
}  # fmt: skip
_LOST = {
    **dict.fromkeys(("--api-key", "--hf-token"), "keys are made by `ams keys`, the hub's token is tokenSecretRef"),
    **dict.fromkeys(
        ("--ssl-keyfile", "--ssl-certfile", "--ssl-ca-certs"), "the gateway has TLS, see docs/access.md"
    ),
    **dict.fromkeys(
        ("--chat-template", "--chat-template-content-format", "--tool-parser-plugin"),
        "prompts are made by the chat template among the weights",
    ),
    **dict.fromkeys(
        ("--enable-lora", "--lora-modules", "--max-loras", "--max-lora-rank", "--max-cpu-loras"),
        "name adapters in spec.adapters, and ask for them as MODEL:NAME",
    ),
    **dict.fromkeys(("--download-dir", "--allowed-local-media-path"), "weights are on a volume of the model's own"),
    "--trust-remote-code": "code in a model's repository is neither downloaded nor run",
    "--middleware": "",
}  # fmt: skip
_MOST_REQUESTS = 1024


def apply(draft: Draft, words: Sequence[str], where: str, gpus: int = 0) -> None:
    """Put a command line's options into fields; `where` is where they are written, `gpus` how many there are."""
    rest: list[str] = []
    for option in options(words):
        if not _is_field(draft, option, f"{where} {option.name}".rstrip(), gpus):
            rest += option.words
    draft.set("engine.args", [*(draft.get("engine.args") or []), *rest])


def tokens(text: str) -> int | None:
    """A number as vLLM takes it: 4096, 4k (4000), 4K (4096); None for auto and what isn't one."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([kKmMgG]?)", text)
    if found is None:
        return None
    unit = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "K": 2**10, "M": 2**20, "G": 2**30}[found[2]]
    return int(float(found[1]) * unit)


def _is_field(draft: Draft, option: Option, where: str, gpus: int) -> bool:
    """Whether an option needs no place among the engine's arguments."""
    name, value = option.name, option.value
    match name:
        case "--model":
            known, named = draft.get("model.source"), _source(value)
            draft.set("model.source", known or named)
            if known is not None and known.partition("@")[0] != named:
                draft.lose(f"{where} ({value})", f"the weights are {known} already")
        case "--revision":
            draft.set("model.source", with_revision(draft.get("model.source"), value))
        case "--served-model-name":
            draft.aliases += option.values
        case "--max-num-seqs" if (count := tokens(value)) is not None:
            set_requests(draft, count, where)
        case "--max-model-len" if (length := tokens(value)) is not None:
            draft.set("limits.contextTokens", length)
        case "--max-model-len" if value in ("auto", "-1"):
            draft.say(where, "not needed: what the model and memory allow")
        case "--max-model-len" | "--max-num-seqs":
            draft.lose(f"{where} ({value})", "not a number")
        case "--dtype" if value in _PRECISIONS:
            draft.set("precision", _PRECISIONS[value])
        case "--quantization" | "-q" if value == "bitsandbytes":
            draft.set("quantization", "4bit")
        case "--load-format" if value == "bitsandbytes":
            draft.set("quantization", "4bit")
        case "--tensor-parallel-size" | "-tp" if value == str(max(gpus, 1)):
            draft.say(where, "not needed: it is the number of GPUs")
        case "--no-enable-prefix-caching":
            draft.set("limits.prefixCacheTokens", 0)
        case "--enable-prefix-caching" if value.lower() == "false":
            draft.set("limits.prefixCacheTokens", 0)
        case "--tool-call-parser" if value in _TOOL_PARSERS:
            draft.set("model.toolParser", _TOOL_PARSERS[value])
        case "--tool-call-parser":
            draft.lose(f"{where} ({value})", "how calls are written is read from the chat template; see toolParser")
        case "--task" | "--runner" if value in ("embed", "embedding", "pooling", "text_embedding"):
            draft.set("model.family", "embedding")
        case _ if name in _NOT_NEEDED:
            draft.say(where, _NOT_NEEDED[name])
        case _ if name in _LOST:
            draft.lose(where, _LOST[name])
        case _:
            return False
    return True


def set_requests(draft: Draft, count: int, where: str) -> None:
    """Requests at the same time, within what the field allows."""
    if count > _MOST_REQUESTS:
        draft.lose(f"{where} ({count})", f"at most {_MOST_REQUESTS} here")
    draft.set("limits.concurrentRequests", max(1, min(count, _MOST_REQUESTS)))


def with_revision(source: str | None, revision: str) -> str | None:
    """A source of the hub at a revision, unless it has one."""
    if source is None or not source.startswith("hf://") or "@" in source or not revision:
        return source
    path, mark, query = source.partition("?")
    return f"{path}@{revision}{mark}{query}"


def _source(model: str) -> str | None:
    if model.startswith("file:///"):
        return model
    return f"hf://{model}" if re.fullmatch(r"[\w.-]+/[\w.-]+", model) else None
