"""Weights that a folder holds in groups of 4 to 8 bits, as a GGUF file had them: what its config.json says of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

METHOD: Final = "grouped"
VERSION: Final = 2
# What of version 1 is in folders means the same in 2, which has more layouts.
KNOWN_VERSIONS: Final = (1, VERSION)
_BITS: Final = (4, 5, 6, 8)
_MOST_PARAMETERS = 1 << 44


@dataclass(frozen=True, slots=True)
class GroupedWeights:
    """`bits` are those of most of them. `file_type` is the GGUF file's, such as Q4_1."""

    parameters: int
    bits: int
    file_type: str

    @property
    def quantization(self) -> Literal["4bit", "8bit"]:
        """Which setting's they are, as more than 4 bits are nearest to 8."""
        return "4bit" if self.bits == 4 else "8bit"

    @property
    def words(self) -> str:
        return f"GGUF {self.file_type}".strip()


def grouped_weights(config: Mapping[str, Any]) -> GroupedWeights | None:
    """From `quantization_config` of a config.json; None where weights are others, or what it says makes no sense."""
    own = config.get("quantization_config")
    if not isinstance(own, Mapping) or own.get("quant_method") != METHOD:
        return None
    parameters, bits, file_type = own.get("parameters"), own.get("bits"), own.get("file_type", "")
    if type(parameters) is not int or not 0 < parameters < _MOST_PARAMETERS:
        return None
    if type(bits) is not int or bits not in _BITS:
        return None
    return GroupedWeights(parameters, bits, file_type if isinstance(file_type, str) and len(file_type) < 32 else "")
