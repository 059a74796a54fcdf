"""`python -m fakehub FOLDER [--host --port --url --token --gated]`: serve FOLDER/<owner>/<name>/... as a hub."""

import argparse
import signal
from pathlib import Path

from fakehub.repository import from_folder
from fakehub.server import FakeHub


def main() -> None:
    parser = argparse.ArgumentParser(prog="fakehub", description="A Hugging Face hub that serves a folder.")
    parser.add_argument("folder", type=Path, help="holds <owner>/<name>/ with the files of each model")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument(
        "--port", type=int, default=0, help="0 picks a free one; else LFS files come from the next port"
    )
    parser.add_argument("--url", help="how clients reach it, if not by host and port")
    parser.add_argument("--token", action="append", default=[], help="a token that it knows; may be given again")
    parser.add_argument("--gated", action="append", default=[], metavar="OWNER/NAME", help="asks for a token")
    options = parser.parse_args()
    with FakeHub(options.host, options.port, options.url, tokens=set(options.token)) as hub:
        for folder in sorted(options.folder.glob("*/*")):
            if folder.is_dir():
                repository = from_folder(f"{folder.parent.name}/{folder.name}", folder)
                repository.gated = repository.name in options.gated
                hub.add(repository)
        print(hub.url, flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})


if __name__ == "__main__":
    main()
