"""Where KServe finds weights, as a model's source."""

import re

from ams_cli.importing.results import NotImported


def source_of(uri: str, where: str) -> str:
    """A storage URI as a source; NotImported names `where` if it is none."""
    scheme, _, rest = uri.partition("://")
    if scheme == "pvc" and rest:
        return f"pvc://{rest}"
    if scheme == "hf":  # its revision is after a colon
        named = re.fullmatch(r"(?P<repository>[^/:]+/[^/:]+)(?::(?P<revision>[^/:]+))?", rest)
        if named is not None:
            return f"hf://{named['repository']}" + (f"@{named['revision']}" if named["revision"] else "")
    raise NotImported(
        f"{where} ({uri}): not a source; known are hf://owner/name and pvc://claim/path: copy the files onto a volume"
    )
