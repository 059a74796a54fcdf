"""Settings from flags and AMS_* environment variables out of one msgspec struct; its fields are the reference.

Every field becomes `--field-name` and `AMS_FIELD_NAME`; the flag wins. Descriptions come from
`Annotated[..., msgspec.Meta(description="...")]`. A bad value ends in OptionError with one sentence that names the
variable or flag, the value and what is allowed.
"""

import argparse
import difflib
import logging
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar, get_args

import msgspec

from ams_common.json_lines import JsonLines
from ams_common.parsing import explain, with_choices

S = TypeVar("S", bound=msgspec.Struct)


class OptionError(ValueError):
    """A setting that can't be used, told in one sentence."""


def flag_name(field: str) -> str:
    return "--" + field.replace("_", "-")


def variable_name(field: str) -> str:
    return "AMS_" + field.upper()


def add_flags(parser: argparse.ArgumentParser, settings: type[msgspec.Struct]) -> None:
    """Add a flag for each field of `settings`; a flag that isn't given stays None for `resolve_settings`."""
    for field in msgspec.structs.fields(settings):
        kind, meta = _kind(field.type)
        text = (meta.description or "") if meta else ""
        default = "" if field.required else f" (default {_shown(field)})"
        help_text = f"{text}{default} [{variable_name(field.name)}]".replace("%", "%%")
        if kind is bool:
            parser.add_argument(
                flag_name(field.name), action=argparse.BooleanOptionalAction, default=None, help=help_text
            )
        else:
            parser.add_argument(
                flag_name(field.name), default=None, help=help_text, metavar=field.name.upper().rsplit("_", 1)[-1]
            )


def resolve_settings(settings: type[S], flags: Mapping[str, Any], environment: Mapping[str, str]) -> S:
    """The settings from parsed flags (None = not given) and the environment. OptionError on a bad value."""
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for field in msgspec.structs.fields(settings):
        given = flags.get(field.name)
        origin[field.name] = flag_name(field.name)
        if given is None and (text := environment.get(variable_name(field.name))) not in (None, ""):
            given, origin[field.name] = text, variable_name(field.name)
        if given is not None:
            values[field.name] = given
        elif field.required:
            raise OptionError(f"{flag_name(field.name)} (or {variable_name(field.name)}) is required")
    try:
        return msgspec.convert(values, settings, strict=False)
    except msgspec.ValidationError as error:
        name, sentence = explain(error)
        sentence = with_choices(sentence, settings, name).removesuffix(", got str")  # all text at first
        sentence = "expected true or false" if sentence == "expected bool" else sentence
        raise OptionError(f"{origin[name]}={values[name]!r}: {sentence}") from None


def environment_of(settings: msgspec.Struct) -> dict[str, str]:
    """The AMS_* variables that give these settings again; defaults are left out."""
    result = {}
    for field in msgspec.structs.fields(settings):
        value = getattr(settings, field.name)
        if field.required or value != field.default:
            result[variable_name(field.name)] = str(value).lower() if isinstance(value, bool) else str(value)
    return result


def parse(
    settings: type[S],
    prog: str,
    argv: Sequence[str],
    environment: Mapping[str, str],
    description: str = "",
    *,
    shared_with: type[msgspec.Struct] | None = None,
) -> S:
    """Settings of a whole command; exits with status 2 and one sentence on bad input.

    Says in one line which AMS_* variables it drops; those of `shared_with`, a command in the same environment, aside.
    The line is JSON where the settings ask for that of all lines.
    """
    parser = argparse.ArgumentParser(prog=prog, description=description)
    add_flags(parser, settings)
    arguments = parser.parse_args(list(argv))
    commands = (settings,) if shared_with is None else (settings, shared_with)
    style = ""
    try:
        resolved = resolve_settings(settings, vars(arguments), environment)
        style = getattr(resolved, "log_format", "")
    except OptionError as error:
        parser.error(str(error))
    finally:  # of two mistakes, one may explain the other
        say_unread(prog, environment, variables_of(*commands), style)
    return resolved


def say_unread(prog: str, environment: Mapping[str, str], read: Collection[str], log_format: str) -> None:
    """Write `unread`'s line to stderr, if there is one: as JSON where `log_format` is "json"."""
    if (line := unread(environment, read)) is not None:
        record = logging.LogRecord(prog, logging.WARNING, "", 0, line, None, None)
        print(JsonLines().format(record) if log_format == "json" else f"{prog}: {line}", file=sys.stderr)


def unread(environment: Mapping[str, str], read: Collection[str]) -> str | None:
    """One line that names the AMS_* variables that are set and not `read` by the command; None if there are none.

    A misspelt variable, or one of another command, would otherwise be dropped without a word.
    """
    names = sorted(
        name
        for name, value in environment.items()
        if name.startswith("AMS_") and value and name not in read and not _is_service_link(name, value)
    )
    if not names:
        return None
    hints = [_hint(name, read) for name in names]
    what = "it" if len(names) == 1 else "them"
    return f"{', '.join(hints)}: set in the environment, but this command doesn't read {what}"


def variables_of(*settings: type[msgspec.Struct]) -> frozenset[str]:
    """The AMS_* variables of these settings."""
    return frozenset(variable_name(field.name) for struct in settings for field in msgspec.structs.fields(struct))


def _hint(name: str, read: Collection[str]) -> str:
    close = difflib.get_close_matches(name, read, 1, cutoff=0.85)
    return f"{name} (did you mean {close[0]}?)" if close else name


def _is_service_link(name: str, value: str) -> bool:
    """Kubernetes sets such variables in every container for each Service called ams-something."""
    return re.search(r"_SERVICE_(HOST|PORT)(_\w+)?$|_PORT_\d+_(TCP|UDP|SCTP)(_\w+)?$", name) is not None or (
        name.endswith("_PORT") and "://" in value
    )


def _kind(annotation: Any) -> tuple[Any, msgspec.Meta | None]:
    meta = next((m for m in getattr(annotation, "__metadata__", ()) if isinstance(m, msgspec.Meta)), None)
    base = getattr(annotation, "__origin__", annotation) if meta else annotation
    parts = [part for part in get_args(base) if part is not type(None)]
    return (parts[0] if len(parts) == 1 and type(None) in get_args(base) else base), meta


def _shown(field: "msgspec.structs.FieldInfo") -> str:
    return "none" if field.default in (None, "") else str(field.default)
