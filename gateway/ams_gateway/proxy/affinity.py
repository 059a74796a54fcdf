"""Which conversation a request belongs to, so that it goes to the pod that has read what it begins with.

Turns of a conversation begin alike: with instructions and the user's first message. That beginning, and whose it is,
makes a number; pods are ordered by it (rendezvous hashing), alike in every gateway, and a pod that comes or goes moves
only the conversations that are its own. Nothing is remembered.
"""

import hashlib
import re
from collections.abc import Callable

import msgspec

from ams_gateway.responses.kept import as_items

Affinity = Callable[[], int | None]
"""A conversation's number, None for a request that belongs to none; asked only where there are several pods."""

_MOST_MESSAGES = 8  # looked at for the user's first one
_PROMPT_BYTES = 2048  # of a text to be continued: its beginning
_PASSING = re.compile(rb'"x-anthropic-billing-header:[^"]{0,1000}"|,?\s?"cache_control":\s?\{[^{}]{0,200}\},?')


class _Role(msgspec.Struct):
    role: str = ""


class _Beginning(msgspec.Struct):
    """The fields of any /v1 body that tell conversations apart."""

    prompt_cache_key: msgspec.Raw = msgspec.Raw()
    instructions: msgspec.Raw = msgspec.Raw()
    system: msgspec.Raw = msgspec.Raw()
    messages: msgspec.Raw = msgspec.Raw()
    previous_items: msgspec.Raw = msgspec.Raw()  # of a response that goes on from others
    input: msgspec.Raw = msgspec.Raw()
    prompt: msgspec.Raw = msgspec.Raw()


_BEGINNING = msgspec.json.Decoder(_Beginning)
_LIST = msgspec.json.Decoder(list[msgspec.Raw])
_ROLE = msgspec.json.Decoder(_Role)


def conversation_of(body: bytes, key: str) -> int | None:
    """The number of the conversation that a JSON body of a key belongs to; None if nothing tells.

    A client that names its conversation in `prompt_cache_key` is believed, within its own key.
    """
    try:
        fields = _BEGINNING.decode(body)
        own = bytes(fields.prompt_cache_key)
        if own not in (b"", b"null"):
            return _number(key, own)
        instructions, system = bytes(fields.instructions), bytes(fields.system)
        turns = bytes(fields.messages) or bytes(fields.previous_items) or as_items(bytes(fields.input))
        if turns[:1] == b"[" and turns != b"[]":
            return _number(key, instructions, *map(_lasting, (system, *_first_turn(_LIST.decode(turns)))))
        text = bytes(fields.prompt)[:_PROMPT_BYTES]
        return _number(key, instructions, text) if text else None
    except msgspec.DecodeError:
        return None  # the pod refuses it


def weight(conversation: int, pod: str) -> int:
    """How much a pod is this conversation's: it goes to the one with most."""
    digest = hashlib.blake2b(pod.encode(), digest_size=8, key=conversation.to_bytes(8, "big")).digest()
    return int.from_bytes(digest, "big")


def _lasting(part: bytes) -> bytes:
    """What stays from turn to turn: Claude Code's header of a bill and its marks of what to cache don't."""
    return _PASSING.sub(b"", part) if b"cache_control" in part or b"x-anthropic" in part else part


def _first_turn(messages: list[msgspec.Raw]) -> list[bytes]:
    """All messages up to the user's first one."""
    taken = []
    for message in messages[:_MOST_MESSAGES]:
        taken.append(bytes(message))
        try:
            if _ROLE.decode(message).role == "user":
                break
        except msgspec.ValidationError:
            continue  # of another kind
    return taken


def _number(*parts: str | bytes) -> int:
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big") + data)
    return int.from_bytes(digest.digest(), "big")
