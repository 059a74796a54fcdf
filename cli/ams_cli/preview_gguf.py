"""What the head of a GGUF file tells of its model, before the file is fetched or converted."""

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ams_common.gguf_embedding import gguf_embedding

_ENOUGH_BYTES = 64 << 20  # of a head: a vocabulary of 260,000 tokens with its merges takes 16 MiB
_FIRST_BYTES = 1 << 20


class NoGguf(Exception):
    """The message is a clause without a subject."""


@dataclass(frozen=True, slots=True)
class GgufHead:
    """`config` is config.json as converting makes it, empty for an architecture that transformers converts.

    `folder_bytes` are the weights that the builtin engine gets; `refusal` is why it gets none, as sentences. `embeds`:
    the model makes vectors or scores.
    """

    parameters: int
    folder_bytes: int
    config: dict[str, Any] = field(default_factory=dict)
    refusal: str = ""
    embeds: bool = False


def read_head(path: Path, name: str, size: int | None = None) -> GgufHead:
    """Of a file called `name`; `size` bytes are the whole of it, where `path` holds its beginning alone.

    NoGguf, or OSError as the file system says.
    """
    # Imported where there is such a file: numpy takes a tenth of a second.
    from ams_pod.engines.builtin.model.gguf_file import read_gguf
    from ams_pod.engines.builtin.model.gguf_folder import Unplanned, plan
    from ams_pod.engines.builtin.model.gguf_header import BadHeader
    from ams_pod.engines.builtin.model.gguf_settings import NotComputed, why_not_converted

    try:
        file = read_gguf(path, size)
    except BadHeader as error:
        raise NoGguf(str(error)) from error
    unpacked = 2 * file.parameters  # in bfloat16
    try:
        made = plan(file)
    except NotComputed as reason:
        embedding = gguf_embedding(file.metadata)
        config = {} if embedding is None else dict(embedding.config)
        refusal = why_not_converted(name, reason)
        return GgufHead(file.parameters, unpacked, config, refusal, embeds=embedding is not None)
    except Unplanned as reason:
        return GgufHead(file.parameters, unpacked, reason.config or {})
    return GgufHead(file.parameters, made.size, made.config)


def read_first_bytes(pieces: Iterable[bytes], name: str, size: int) -> GgufHead:
    """Of a file of `size` bytes that comes in `pieces`, of which no more are taken than its head is long.

    NoGguf, also where the head is longer than that of any model.
    """
    from ams_pod.engines.builtin.model.gguf_header import EndsEarly

    tried = _FIRST_BYTES
    with tempfile.NamedTemporaryFile(prefix="ams-gguf-") as file:
        taken = 0
        for piece in pieces:
            file.write(piece)
            taken += len(piece)
            if taken < min(tried, size):
                continue
            file.flush()
            try:
                return read_head(Path(file.name), name, size)
            except NoGguf as error:
                if not isinstance(error.__cause__, EndsEarly) or taken >= min(size, _ENOUGH_BYTES):
                    raise
            tried = 2 * taken
    raise NoGguf("ends too early")
