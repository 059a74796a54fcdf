"""Text from outside on its way into a header, a log line or a label: one line, printable, of bounded length."""


def printable(text: str, most: int = 1000) -> str:
    """`text` itself where it is printable ASCII, else with escapes like `\\n` and `\\u2028`; cut to `most` characters.

    What it gives can be encoded in any charset and never ends a line, whatever it was given.
    """
    text = text[:most]
    return text if text.isascii() and text.isprintable() else ascii(text)[1:-1][:most]
