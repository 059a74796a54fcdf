"""SGLang's options as fields of a ModelDeployment; what no field says stays an argument of the engine."""

from collections.abc import Sequence

from ams_cli.importing import vllm_options
from ams_cli.importing.results import Draft, NotImported
from ams_cli.importing.vllm_servers import COPIES
from ams_cli.importing.words import options

_OF_VLLM = {
    "--model-path": "--model", "--context-length": "--max-model-len", "--max-running-requests": "--max-num-seqs",
    "--tp": "--tensor-parallel-size", "--tp-size": "--tensor-parallel-size",
}  # fmt: skip
"""The spellings of vLLM for what it has too."""
_BACK = {"--max-model-len": "--context-length", "--max-num-seqs": "--max-running-requests"}
_NODES = ("--nnodes", "--node-rank", "--dist-init-addr", "--nccl-init-addr")
_OURS = (
    "--log-level",
    "--log-level-http",
    "--enable-metrics",
    "--show-time-cost",
    "--log-requests",
    "--decode-log-interval",
)
_PREFILL = "--disaggregation-mode"


def apply(draft: Draft, words: Sequence[str], where: str, gpus: int = 0) -> None:
    """As `vllm_options.apply`. NotImported of a server that only reads prompts for others."""
    rest: list[str] = []
    for option in options(words):
        at = f"{where} {option.name}"
        match option.name:
            case name if name == _PREFILL and option.value == "prefill":
                raise NotImported(
                    f"{at} prefill: prompts are read by the pods that answer: count these replicas in there"
                )
            case name if name.startswith("--disaggregation"):
                draft.lose(at, "of pods for prefill, which are not separate here")
            case name if name in _NODES:
                draft.say(at, "not needed: processes of a group find each other; engine.nodes is how many there are")
            case name if name in _OURS:
                draft.say(at, "not needed: the pod in front of the engine does this")
            case "--dp" | "--dp-size" | "--data-parallel-size":
                if option.value != "1":
                    draft.lose(f"{at} ({option.value})", COPIES)
            case "--is-embedding":
                draft.set("model.family", "embedding")
            case "--lora-paths":
                draft.lose(at, "name adapters in spec.adapters, and ask for them as MODEL:NAME")
            case "--disable-radix-cache":
                draft.set("limits.prefixCacheTokens", 0)
            case _:
                first, equals, value = option.words[0].partition("=")
                rest += [_OF_VLLM.get(first, first) + equals + value, *option.words[1:]]
    vllm_options.apply(draft, rest, where, gpus)
    if args := draft.get("engine.args"):
        draft.set("engine.args", [_spelled_back(word) for word in args])


def _spelled_back(word: str) -> str:
    name, equals, value = word.partition("=")
    return _BACK.get(name, name) + equals + value
