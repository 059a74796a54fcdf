"""What becomes of a GGUF file that was fetched: it is converted, or kept with what prompts need beside it."""

from ams_pod.download.convert import convert, describe
from ams_pod.download.jobs import Context
from ams_pod.download.lease import FolderLease
from ams_pod.download.partial import Partial

_DESCRIBED = "config.json"


def is_made(gguf: str | None, partial: Partial, context: Context) -> bool:
    """Whether all that is made of the file is there; what is made at once is recorded at once."""
    if gguf is None:
        return False
    if context.keeps_gguf:
        return partial.verified(gguf) is not None and partial.verified(_DESCRIBED) is not None
    return partial.has_files(besides=context.signature_path)


def make(gguf: str, partial: Partial, lease: FolderLease, context: Context) -> None:
    """Failed, FolderLeaseLost or OSError."""
    if context.keeps_gguf:
        partial.record_as_input(gguf)
        describe(partial.place(gguf), partial, lease, context.tracker)
    else:
        convert(partial.place(gguf, input=True), partial, lease, context.tracker)
