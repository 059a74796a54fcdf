"""Write the locks of the images' dependencies: every package with its version and the sha256 of each of its files.

    python locks/write.py UV

UV is the program uv; `make locks` brings one. Versions are those of constraints.txt where it has them, else those of
the last lock, else the newest. torch and torchvision come from an index of the builder's choice, with all that CUDA
needs, so that nobody can know their hashes here: they are pinned by version alone.
"""

import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
EXTRAS = {"operator": ("gateway", "operator", "tracing"), "pod": ("local", "tracing")}
BUILD = "hatchling"  # what the wheel of this project is built with
OF_ANOTHER_INDEX = re.compile(r"torch|torchvision|triton|nvidia-.*|cuda-.*")


def main(uv: str) -> None:
    for name, extras in EXTRAS.items():
        write(uv, name, "pyproject.toml", *(argument for extra in extras for argument in ("--extra", extra)))
    write(uv, "build", "-")


def write(uv: str, name: str, *source: str) -> None:
    path = HERE / f"{name}.txt"
    subprocess.run(
        [
            *(uv, "pip", "compile", *source, "--constraint", "constraints.txt", "--output-file", str(path)),
            *("--universal", "--python-version", "3.11", "--generate-hashes", "--quiet"),
            *("--no-emit-index-url", "--no-emit-find-links", "--no-header", "--no-annotate", "--no-config"),
        ],
        cwd=HERE.parent,
        input=BUILD,
        text=True,
        check=True,
    )
    kept = [block for block in blocks(path.read_text()) if not OF_ANOTHER_INDEX.fullmatch(name_of(block))]
    path.write_text("".join(kept))


def blocks(text: str) -> list[str]:
    """A package each: its line and those of its hashes."""
    return re.findall(r"^\S.*\n(?:[ \t].*\n)*", text, re.MULTILINE)


def name_of(block: str) -> str:
    return block.partition("==")[0]


if __name__ == "__main__":
    main(sys.argv[1])
