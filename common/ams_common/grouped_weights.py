"""Weights that a folder holds in groups of 4 or 8 bits, as a GGUF file had them: what its config.json says of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

METHOD: Final = "grouped"
VERSION: Final = 1
_MOST_PARAMETERS = 1 << 44


@dataclass(frozen=True, slots=True)
class GroupedWeights:
    """`bits` are those of most of them. `file_type` is the GGUF file's, such as Q4_1."""

    parameters: int
    bits: int
    file_type: str

    @property
    def words(self) -> str:
        return f"GGUF {self.file_type}".strip()


def grouped_weights(config: Mapping[str, Any]) -> GroupedWeights | None:
    """From `quantization_config` of a config.json; None where weights are others, or what it says makes no sense."""
    own = config.get("quantization_config")
    if not isinstance(own, Mapping) or own.get("quant_method") != METHOD:
        return None
    parameters, bits, file_type = own.get("parameters"), own.get("bits"), own.get("file_type", "")
    if type(parameters) is not int or not 0 < parameters < _MOST_PARAMETERS or bits not in (4, 8):
        return None
    return GroupedWeights(parameters, bits, file_type if isinstance(file_type, str) and len(file_type) < 32 else "")
