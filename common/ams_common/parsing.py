"""msgspec's errors as sentences that name the field: `spec.autoscaling.minReplicas: expected int, got str`."""

import re
from collections.abc import Iterator
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from ams_common.errors import ApiError
from ams_common.outline import TooMuchJson, check_json_size

T = TypeVar("T")

_AT = re.compile(r"^(?P<what>.*?)(?: - at `\$?\.?(?P<path>[^`]*)`)?$", re.S)
_TICKS = re.compile(r"`([^`]*)`")
_MISSING = re.compile(r"Object missing required field `(?P<field>[^`]+)`")


def explain(error: msgspec.ValidationError) -> tuple[str, str]:
    """(path, sentence) of a validation error; the path is empty for the document itself."""
    match = _AT.match(str(error))
    what, path = (match["what"], match["path"] or "") if match else (str(error), "")
    if missing := _MISSING.search(what):
        field = missing["field"]
        return (f"{path}.{field}" if path else field), "is required"
    return path, (lowered := _TICKS.sub(r"\1", what))[:1].lower() + lowered[1:]


def choices(annotation: Any, path: str) -> list[str]:
    """The words allowed at `path` under a type: a Literal's values or a union's tags; none where any value goes."""
    kinds = [inspect.type_info(annotation)]
    for name in filter(None, re.split(r"[.\[]", path)):
        below = []
        for kind in _plain(kinds):
            match kind:
                case inspect.ListType() if name.endswith("]"):
                    below.append(kind.item_type)
                case inspect.StructType() if kind.tag_field == name:
                    below.append(inspect.LiteralType((kind.tag,)))
                case inspect.StructType():
                    below += [field.type for field in kind.fields if field.encode_name == name]
        kinds = below
    return [str(value) for kind in _plain(kinds) if isinstance(kind, inspect.LiteralType) for value in kind.values]


def _plain(kinds: list[inspect.Type]) -> Iterator[inspect.Type]:
    for kind in kinds:
        if isinstance(kind, inspect.Metadata):
            yield from _plain([kind.type])
        elif isinstance(kind, inspect.UnionType):
            yield from _plain(list(kind.types))
        else:
            yield kind


def with_choices(sentence: str, annotation: Any, path: str) -> str:
    """Add what is allowed to a sentence that only says that a word isn't."""
    words = choices(annotation, path) if sentence.startswith("invalid") else []
    return f"{sentence}; allowed: {', '.join(words)}" if words else sentence


def decode_body(decoder: "msgspec.json.Decoder[T]", body: bytes | bytearray) -> T:
    """Decode a request body; ApiError `invalid_json`, `invalid_parameter` with the field's name, or `body_too_large`.

    What it holds is counted first: objects take many times the bytes that they are made of.
    """
    try:
        check_json_size(body)
        return decoder.decode(body)
    except TooMuchJson as error:
        raise ApiError("body_too_large", f"The body {error}.") from None
    except msgspec.ValidationError as error:
        path, sentence = explain(error)
        if path == "prompt" and sentence == "is required":
            raise ApiError("missing_prompt", "prompt is required: the text to answer.", param="prompt") from None
        if path:
            sentence = with_choices(sentence, decoder.type, path)
            raise ApiError("invalid_parameter", f"{path}: {sentence}.", param=path) from None
        raise ApiError("invalid_parameter", f"The body must be a JSON object: {sentence}.") from None
    except msgspec.DecodeError as error:
        raise ApiError("invalid_json", f"The body is not valid JSON: {error}.") from None
    except UnicodeDecodeError:
        raise ApiError("invalid_json", "The body is not valid JSON: it is not UTF-8.") from None
    except RecursionError:
        raise ApiError("invalid_json", "The body is nested too deeply.") from None
