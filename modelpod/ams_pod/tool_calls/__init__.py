"""How models write calls of tools: dialects, one a family, that read them from answers, write them, and tell a grammar.

Nothing here computes or speaks HTTP.
"""

from ams_pod.tool_calls.deepseek import DeepSeek
from ams_pod.tool_calls.dialect import Dialect, Functions
from ams_pod.tool_calls.hermes import Hermes
from ams_pod.tool_calls.llama3 import Llama3
from ams_pod.tool_calls.mistral import Mistral
from ams_pod.tool_calls.parser import CallParser
from ams_pod.tool_calls.pieces import Call, CallDelta, Read
from ams_pod.tool_calls.pythonic import Pythonic
from ams_pod.tool_calls.qwen3_coder import Qwen3Coder

HERMES: Dialect = Hermes()
DIALECTS: tuple[Dialect, ...] = (
    Mistral("mistral", named=False),
    Mistral("mistral-v11", named=True),
    DeepSeek("deepseek", block=True),
    DeepSeek("deepseek-v3.1", block=False),
    Qwen3Coder(),
    HERMES,
    Pythonic(),
    Llama3(),
)
"""In the order in which chat templates are looked at."""

BY_NAME = {dialect.name: dialect for dialect in DIALECTS}


def dialect_of(template: str, configured: str = "auto", *, knows_tools: bool = True) -> Dialect:
    """That of a model by its chat template, unless one is configured.

    Hermes' for a template that tells nothing of calls, and where tools are described in words of our own.
    """
    if configured != "auto":
        return BY_NAME[configured]
    if not knows_tools:
        return HERMES
    return next((dialect for dialect in DIALECTS if dialect.suits(template)), HERMES)


__all__ = [
    "BY_NAME",
    "DIALECTS",
    "HERMES",
    "Call",
    "CallDelta",
    "CallParser",
    "Dialect",
    "Functions",
    "Read",
    "dialect_of",
]
