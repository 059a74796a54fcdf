"""`ams import` in a test: files in, documents and what was said out."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from ams_cli.main import main
from ams_cli.manifests import load_manifests


def imported(
    capsys: pytest.CaptureFixture[str], folder: Path, *texts: str, code: int = 0, extra: tuple[str, ...] = ()
) -> tuple[list[dict[str, Any]], str, str]:
    """The documents, the YAML as it was written, and what was said of it."""
    paths = []
    for number, text in enumerate(texts):
        path = folder / f"{number}.yaml"
        path.write_text(text)
        paths.append(str(path))
    assert main(["import", *paths, *extra]) == code
    out, err = capsys.readouterr()
    documents = [document for document in yaml.safe_load_all(out) if document]
    if documents:
        (folder / "out.yaml").write_text(out)
        assert len(load_manifests([str(folder / "out.yaml")]).models) == len(documents)
    return documents, out, err
