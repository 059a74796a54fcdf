"""The one reader of JSON that something outside wrote: a pod, a hub, an index, a file, an object of the API server.

It gives a value of the type that was asked for, or InvalidJson; nothing else can escape, whatever the bytes are.
"""

import functools
from typing import Any, TypeVar, overload

import msgspec

from ams_common.outline import TooMuchJson, check_json_size

T = TypeVar("T")

MOST_BYTES = 4 << 20
_MOST_DEPTH = 64
_MOST_STRUCTURES = 200_000
_MOST_VALUES = 200_000


class InvalidJson(ValueError):
    """A document from outside that can't be used; the message is a clause without a subject, on one line."""


@overload
def read_json(data: "bytes | bytearray | memoryview | msgspec.Raw | str", *, max_bytes: int = ...) -> Any: ...
@overload
def read_json(
    data: "bytes | bytearray | memoryview | msgspec.Raw | str", type_: type[T], *, max_bytes: int = ...
) -> T: ...
def read_json(
    data: "bytes | bytearray | memoryview | msgspec.Raw | str", type_: Any = Any, *, max_bytes: int = MOST_BYTES
) -> Any:
    """The value in `data`, of type `type_`. InvalidJson if it is too large, too deep, not JSON, or of another type.

    What can be decoded can be encoded again: the depth is bounded by far less than encoders take.
    """
    try:
        text = data.encode() if isinstance(data, str) else bytes(data)
        if len(text) > max_bytes:
            raise InvalidJson(f"is larger than {max_bytes:,} bytes")
        check_json_size(text, structures=_MOST_STRUCTURES, values=_MOST_VALUES, depth=_MOST_DEPTH)
        return _decoder(type_).decode(text)
    except InvalidJson:
        raise
    except TooMuchJson as error:
        raise InvalidJson(str(error)) from None
    except msgspec.ValidationError as error:
        raise InvalidJson(f"is not what was expected: {_one_line(error)}") from None
    except UnicodeError:
        raise InvalidJson("is not valid JSON: it is not UTF-8") from None
    except RecursionError:
        raise InvalidJson("is nested too deeply") from None
    except (ValueError, ArithmeticError, MemoryError) as error:
        raise InvalidJson(f"is not valid JSON: {_one_line(error)}") from None


@functools.cache
def _decoder(type_: Any) -> "msgspec.json.Decoder[Any]":
    return msgspec.json.Decoder(type_)


def _one_line(error: BaseException) -> str:
    return ascii(str(error))[1:-1][:300]
