"""A package index (port 8000) over /wheels and a hub (port 8001) over /models, until SIGTERM."""

import html
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

WHEELS = Path("/wheels")


class Index(BaseHTTPRequestHandler):
    """The simple API of PEP 503, as far as pip needs it."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        name = self.path.split("?")[0].strip("/").rpartition("/")[2]
        if name.endswith(".whl"):
            self._send_file(WHEELS / name)
            return
        wheels = [path.name for path in WHEELS.glob("*.whl") if normal(path.name.split("-")[0]) == normal(name)]
        if not wheels:
            self.send_error(404)
            return
        links = "".join(f'<a href="/files/{html.escape(each)}">{html.escape(each)}</a>\n' for each in wheels)
        self._send(links.encode(), "text/html")

    def _send_file(self, path: Path) -> None:
        if not path.is_file():
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(path.stat().st_size))
        self.end_headers()
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                self.wfile.write(block)

    def _send(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def normal(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def main() -> None:
    url = os.environ.get("HUB_URL", "http://hub:8001")
    hub = [sys.executable, "-m", "fakehub", "/models", "--host", "0.0.0.0", "--port", "8001", "--url", url]
    subprocess.Popen([*hub, "--token", "good-token", "--gated", "acme/gated"])
    ThreadingHTTPServer(("0.0.0.0", 8000), Index).serve_forever()


if __name__ == "__main__":
    main()
