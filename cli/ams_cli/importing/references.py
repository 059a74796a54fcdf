"""Kubernetes' references to variables, $(NAME), in arguments and in other variables."""

import re
from collections.abc import Mapping

_REFERENCE = re.compile(r"\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)")


def written_out(text: str, known: Mapping[str, str], most: int) -> str | None:
    """A text with the values that are told; None where it grows past `most` characters."""
    parts: list[str] = []
    end = length = 0
    for found in _REFERENCE.finditer(text):
        parts += [text[end : found.start()], known.get(found[1], found[0])]
        length += len(parts[-2]) + len(parts[-1])
        end = found.end()
        if length > most:
            return None
    parts.append(text[end:])
    return "".join(parts) if length + len(parts[-1]) <= most else None
