"""`ams up` as a process of its own, with fake pods behind it."""

import asyncio
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from ams_cli.main import main
from test_cli.local_fleet import PROGRAMS

TESTS = Path(__file__).parents[1]


def manifest(name: str = "m", spec: str = "autoscaling: {}") -> str:
    return (
        "apiVersion: aimodelserver.io/v1alpha1\nkind: ModelDeployment\n"
        f"metadata: {{name: {name}}}\nspec: {{model: {{source: 'hf://a/b'}}, {spec}}}\n"
    )


class Up:
    """A running `ams up`. `url` is known after `announced`."""

    def __init__(self, process: asyncio.subprocess.Process, temporary: str) -> None:
        self.process = process
        self.temporary = temporary
        self.lines: list[str] = []
        self.url = ""

    async def line(self, pattern: str) -> str:
        """Read until a line matches."""
        assert self.process.stdout is not None
        async with asyncio.timeout(30):
            while text := (await self.process.stdout.readline()).decode():
                self.lines.append(text.rstrip())
                if re.search(pattern, text):
                    return text
        raise AssertionError(f"ended without {pattern!r}: {self.lines}")

    async def announced(self) -> "Up":
        found = re.search(r"https?://\S+", await self.line("AI Model Server on"))
        assert found is not None
        self.url = found[0]
        return self

    async def post(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        async with aiohttp.ClientSession() as session, session.post(self.url + path, json=body) as response:
            return response.status, await response.json()

    async def get(self, path: str) -> tuple[int, dict[str, Any]]:
        async with aiohttp.ClientSession() as session, session.get(self.url + path) as response:
            return response.status, await response.json()

    async def interrupt(self, number: int = signal.SIGINT) -> int:
        """Send a signal and wait for the end; the exit status."""
        self.process.send_signal(number)
        return await self.ended()

    async def ended(self) -> int:
        async with asyncio.timeout(30):
            rest, _ = await self.process.communicate()
        self.lines += rest.decode().splitlines()
        return self.process.returncode or 0

    def family(self) -> list[int]:
        """Pids of all processes that descend from it."""
        parents = {}
        for entry in Path("/proc").iterdir():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (ValueError, OSError):
                continue
        found = [self.process.pid]
        for pid in found:
            found += [child for child, parent in parents.items() if parent == pid]
        return found[1:]


@asynccontextmanager
async def up(folder: Path, *arguments: str, text: str | None = None, stdout: int | None = None) -> AsyncIterator[Up]:
    """Run `ams up` on the manifest `text` with folders of its own and a free port; kill it at the end if need be."""
    path = folder / "m.yaml"
    path.write_text(text or manifest())
    temporary = tempfile.mkdtemp(prefix="t-", dir="/tmp")  # a short path: it will hold sockets
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        __file__,
        *(
            "up",
            "-f",
            str(path),
            "--port",
            "0",
            "--models-dir",
            str(folder / "models"),
            "--log-dir",
            str(folder / "logs"),
            "--usage-file",
            str(folder / "usage.db"),
        ),
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE if stdout is None else stdout,
        stderr=asyncio.subprocess.STDOUT if stdout is None else stdout,
        env=os.environ | {"PYTHONPATH": str(TESTS), "TERM": "xterm", "COLUMNS": "120", "TMPDIR": temporary},
    )
    try:
        yield Up(process, temporary)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
        shutil.rmtree(temporary)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], PROGRAMS))
