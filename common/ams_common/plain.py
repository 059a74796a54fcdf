"""Texts of strangers, made fit to be shown: one line, printable, of bounded length."""

import msgspec

from ams_common.progress import Failure

LONGEST_TEXT = 1000


def plain_text(text: str, most: int = LONGEST_TEXT) -> str:
    """The text on one line of at most `most` characters, a space for each run of what can't be shown."""
    shown = " ".join("".join(each if each.isprintable() else " " for each in text[: 4 * most]).split())
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def plain_failure(failure: Failure) -> Failure:
    """The failure as it may be shown."""
    return msgspec.structs.replace(
        failure, reason=plain_text(failure.reason, 100), message=plain_text(failure.message, 2 * LONGEST_TEXT)
    )
