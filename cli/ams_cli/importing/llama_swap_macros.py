"""llama-swap's macros: `${name}` in any value, of the file, of a model, or of the environment."""

import re
from collections.abc import Mapping

from ams_cli.importing.reading import Section
from ams_cli.importing.results import ForeignError, NotImported

_MACRO = re.compile(r"\$\{(env\.)?([A-Za-z0-9_-]+)\}")
_MOST_CHARACTERS = 1 << 16


def read_macros(section: Section, earlier: Mapping[str, str]) -> dict[str, str]:
    """Macros by name, in the order in which they are defined; one may hold those before it."""
    found = dict(earlier)
    for name in section.names():
        if name in ("PORT", "MODEL_ID", "PID"):
            raise ForeignError(f"{section.at(name)}: this name is llama-swap's own")
        found[name] = _written_out(section.text(name), found)
    return found


def expand(text: str, macros: Mapping[str, str], environment: Mapping[str, str]) -> str:
    """A text with all macros written out; NotImported names one that isn't defined."""

    def value(found: re.Match[str]) -> str:
        of, name = (environment, found[2]) if found[1] else (macros, found[2])
        if name not in of:
            raise NotImported(
                f"${{{found[1] or ''}{name}}} is not defined" + (" in this environment" if found[1] else "")
            )
        return of[name]

    # Those of the environment last: they may stand in macros, and what they hold is no macro.
    text = re.sub(r"\$\{(?!env\.)()([A-Za-z0-9_-]+)\}", value, text)
    return _MACRO.sub(value, text)


def _written_out(text: str, macros: Mapping[str, str]) -> str:
    written = _MACRO.sub(lambda found: found[0] if found[1] else macros.get(found[2], found[0]), text)
    if len(written) > _MOST_CHARACTERS:
        raise ForeignError(f"macros: more than {_MOST_CHARACTERS:,} characters once written out")
    return written
