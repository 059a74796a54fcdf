"""What each engine calls things: one row an engine, the rest of the adapter knows none by name."""

from ams_common.engines.names import EngineName

from ams_pod.engines.openai.dialects.base import Dialect
from ams_pod.engines.openai.dialects.custom import Custom
from ams_pod.engines.openai.dialects.llamacpp import LlamaCpp
from ams_pod.engines.openai.dialects.sglang import SGLang
from ams_pod.engines.openai.dialects.vllm import Vllm

_DIALECTS: dict[EngineName, type[Dialect]] = {
    "vllm": Vllm,
    "sglang": SGLang,
    "llamacpp": LlamaCpp,
    "custom": Custom,
}


def dialect_of(engine: EngineName) -> Dialect:
    """KeyError for the builtin one, which is no server."""
    return _DIALECTS[engine]()
