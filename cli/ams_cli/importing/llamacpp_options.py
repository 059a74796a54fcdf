"""llama-server's options as fields of a ModelDeployment; what no field says stays an argument of the engine."""

import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from urllib.parse import quote

from ams_cli.importing import vllm_options
from ams_cli.importing.results import Draft, NotImported
from ams_cli.importing.words import Option, options

_DEFAULT_KIND = "Q4_K_M"  # that llama-server takes of a repository
_OURS = "not needed: the gateway and the pod in front of the engine do this"
_NOT_NEEDED = {
    **dict.fromkeys(
        ("--host", "--port", "--path", "--metrics", "--slots", "--no-slots", "--props", "--no-webui", "--webui",
         "--threads-http", "--timeout", "-to", "--log-disable", "--log-file", "--log-colors", "--verbose", "-v",
         "--log-prefix", "--log-timestamps", "-lv", "--verbosity", "--no-perf", "--perf", "--cont-batching", "-cb"),
        _OURS,
    ),
    **dict.fromkeys(
        ("--jinja", "--reasoning-format", "--reasoning-budget"),
        "not needed: prompts, tools and reasoning are read in front of the engine",
    ),
}  # fmt: skip
_LOST = {
    **dict.fromkeys(
        ("--api-key", "--api-key-file", "--hf-token", "-hft"),
        "keys are made by `ams keys`, the hub's token is HF_TOKEN or tokenSecretRef",
    ),
    **dict.fromkeys(("--ssl-key-file", "--ssl-cert-file"), "the gateway has TLS, see docs/access.md"),
    **dict.fromkeys(
        ("--chat-template", "--chat-template-file", "--chat-template-kwargs", "--no-jinja"),
        "prompts are made by the chat template of the model",
    ),
    **dict.fromkeys(
        ("--temp", "--temperature", "--top-k", "--top-p", "--min-p", "--repeat-penalty", "--presence-penalty",
         "--frequency-penalty", "--samplers", "--seed", "-s", "--repeat-last-n", "--typical", "--mirostat",
         "--dry-multiplier", "--dry-base", "--dry-allowed-length", "--dry-penalty-last-n", "-n", "--predict",
         "--n-predict", "--xtc-probability", "--xtc-threshold", "--dynatemp-range", "--grammar", "--json-schema"),
        "how tokens are drawn is in the request; its defaults are in generation_config.json",
    ),
    **dict.fromkeys(("--lora", "--lora-scaled"), "name adapters in spec.adapters, and ask for them as MODEL:NAME"),
    **dict.fromkeys(("--rerank", "--reranking"), "a model of the family embedding scores texts by /v1/rerank"),
}  # fmt: skip
_EMBEDDING = ("--embedding", "--embeddings")


def apply(draft: Draft, words: Sequence[str], where: str, folder: PurePosixPath) -> None:
    """Put a command line's options into fields. Paths that aren't absolute are taken from `folder`."""
    rest: list[str] = []
    context, slots, unified = None, None, False
    repository = file = ""
    for option in options(words):
        name, value, at = option.name, option.value, f"{where} {option.name}"
        match name:
            case "-m" | "--model":
                draft.set("model.source", f"file://{quote(str(folder / value))}")
            case "-hf" | "-hfr" | "--hf-repo":
                repository = value
            case "-hff" | "--hf-file":
                file = value
            case "-mu" | "--model-url":
                draft.set("model.source", _of_url(value))
            case "-c" | "--ctx-size":
                context = vllm_options.tokens(value)
            case "-np" | "--parallel":
                slots = vllm_options.tokens(value)
            case "-a" | "--alias":
                draft.aliases += [alias.strip() for alias in value.split(",")]
            case _ if name in _EMBEDDING:
                draft.set("model.family", "embedding")
            case _ if name in _NOT_NEEDED:
                draft.say(at, _NOT_NEEDED[name])
            case _ if name in _LOST:
                draft.lose(at, _LOST[name])
            case _:
                unified = unified or name in ("-kvu", "--kv-unified")
                rest += _absolute(option, folder)
    if repository:
        draft.set("model.source", _of_hub(draft, repository, file, where))
    if draft.get("model.source") is None:
        raise NotImported(f"{where}: names no model; known are -m, -hf and -mu")
    _contexts(draft, where, context, slots, unified)
    draft.set("engine.args", rest)


def _contexts(draft: Draft, where: str, context: int | None, slots: int | None, unified: bool) -> None:
    """llama-server's context is that of all slots together, ours is a request's."""
    if slots is not None and slots > 0:
        vllm_options.set_requests(draft, slots, f"{where} --parallel")
    if not context:
        return
    if slots is None or slots < 1:
        draft.set("limits.concurrentRequests", 1)
        draft.say(
            f"{where} --ctx-size",
            "is shared by all requests in llama-server and each request's own here: one at a time takes the same "
            "memory; raise limits.concurrentRequests where there is more",
        )
    draft.set("limits.contextTokens", context if unified else max(1, context // max(slots or 1, 1)))


def _of_hub(draft: Draft, repository: str, file: str, where: str) -> str:
    name, _, kind = repository.partition(":")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) is None:
        raise NotImported(f"{where} --hf-repo {repository!r}: not owner/name[:kind]")
    if not file:
        model = re.sub(r"[-_.]gguf$", "", name.partition("/")[2], flags=re.IGNORECASE)
        file = f"{model}-{(kind or _DEFAULT_KIND).upper()}.gguf"
        draft.lose(
            f"{where} --hf-repo {repository}",
            f"the file is guessed to be {file}; `ams plan` tells whether the repository has it",
        )
    return f"hf://{name}?file={quote(file)}"


def _of_url(url: str) -> str:
    found = re.fullmatch(
        r"https://huggingface\.co/(?P<repository>[\w.-]+/[\w.-]+)/(?:resolve|blob)/(?P<revision>[^/?]+)/(?P<file>[^?]+)"
        r"(?:\?.*)?",
        url,
    )
    if found is None:
        raise NotImported(f"{url}: weights come from the hub, a volume or a folder")
    revision = "" if found["revision"] == "main" else f"@{found['revision']}"
    return f"hf://{found['repository']}{revision}?file={found['file']}"


def _absolute(option: Option, folder: PurePosixPath) -> list[str]:
    """An option's words, with its file as an absolute path: the engine runs in a folder of its own."""
    if option.name in _FILES and len(option.values) == 1:
        return [option.words[0].partition("=")[0], str(folder / option.value)]
    return list(option.words)


_FILES = ("--mmproj", "-mm", "-md", "--model-draft", "--control-vector")
