"""msgspec's errors as sentences that name the field: `spec.autoscaling.minReplicas: expected int, got str`."""

import re
from typing import Any, TypeVar

import msgspec

from ams_common.errors import ApiError

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


def decode_body(decoder: "msgspec.json.Decoder[T]", body: bytes | bytearray | memoryview) -> T:
    """Decode a request body; ApiError `invalid_json` or `invalid_parameter` with the field's name."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        path, sentence = explain(error)
        if path == "prompt" and sentence == "is required":
            raise ApiError("missing_prompt", "prompt is required: the text to answer.", param="prompt") from None
        if path:
            raise ApiError("invalid_parameter", f"{path}: {sentence}.", param=path) from None
        raise ApiError("invalid_parameter", f"The body must be a JSON object: {sentence}.") from None
    except msgspec.DecodeError as error:
        raise ApiError("invalid_json", f"The body is not valid JSON: {error}.") from None
    except RecursionError:
        raise ApiError("invalid_json", "The body is nested too deeply.") from None


_FIELDS: "msgspec.json.Decoder[dict[str, msgspec.Raw]]" = msgspec.json.Decoder(dict[str, msgspec.Raw])


def unknown_fields(body: bytes, known: Any) -> list[str]:
    """Top-level fields of a valid JSON object that the struct type `known` doesn't have, sorted."""
    names = {field.encode_name for field in msgspec.structs.fields(known)}
    return sorted(name for name in _FIELDS.decode(body) if name not in names)
