"""`python -m ams_kube.apply FILE…`: server-side apply of ModelDeployments, for jobs that have no kubectl."""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ams_kube.client import Client, NoCluster
from ams_kube.errors import KubeError
from ams_kube.objects import MODELS_METADATA


async def apply(documents: Sequence[dict[str, Any]], manager: str) -> None:
    """Apply each document; KubeError says in the API server's words why one is refused."""
    async with await Client.connect("ams-apply") as client:
        for document in documents:
            metadata = document["metadata"]
            await client.apply(MODELS_METADATA, metadata["namespace"], metadata["name"], document, manager=manager)
            print(f"{metadata['namespace']}/{metadata['name']} applied")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m ams_kube.apply", description="Apply ModelDeployments.")
    parser.add_argument("files", nargs="+", type=Path, help="JSON: a list of ModelDeployments")
    parser.add_argument("--manager", default="ams", help="field manager")
    arguments = parser.parse_args()
    documents = [document for path in arguments.files for document in json.loads(path.read_text(encoding="utf-8"))]
    try:
        asyncio.run(apply(documents, arguments.manager))
    except (NoCluster, KubeError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
