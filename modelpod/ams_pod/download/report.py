"""Reports how far the download is: GET /progress and /metrics, a file of JSON lines, and lines on standard error."""

import logging
import socket
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

import msgspec
from ams_common.json_lines import JsonLines
from ams_common.pod_settings import DownloadSettings, LogFormat
from ams_common.progress import Progress

from ams_pod.download.progress import Tracker
from ams_pod.volume import space_of

_TICK_SECONDS = 0.2
_LINE_SECONDS = 10.0


class Report:
    """Reports until the end of the `with` block, and once more there."""

    def __init__(self, settings: DownloadSettings, tracker: Tracker) -> None:
        self._settings = settings
        self._tracker = tracker
        self._server: ThreadingHTTPServer | None = None
        self._stop = threading.Event()
        self._ticker: threading.Thread | None = None
        self._last: Progress | None = None
        self._printed: tuple[str, str] = ("", "")
        self._printed_at = 0.0

    def start(self) -> None:
        """Begin, if it hasn't; a download that has nothing to do never does."""
        if self._ticker is not None:
            return
        if self._settings.progress_port >= 0:
            try:
                self._serve()
            except OSError as error:  # no reason to serve no model
                address = f"{self._settings.progress_host}:{self._settings.progress_port}"
                say(f"no progress page: {address} can't be listened on ({error.strerror or error})")
        self._ticker = threading.Thread(target=self._tick, name="report", daemon=True)
        self._ticker.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._ticker is not None:
            self._ticker.join()
        self._publish()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def _tick(self) -> None:
        while not self._stop.wait(_TICK_SECONDS):
            self._publish()

    def _publish(self) -> None:
        progress = self._tracker.snapshot()
        if progress == self._last:
            return
        self._last = progress
        self._tell(progress)
        if self._settings.progress_file:
            try:
                with open(self._settings.progress_file, "ab") as file:
                    file.write(msgspec.json.encode(progress) + b"\n")
            except OSError as error:
                say(f"{self._settings.progress_file} can't be written ({error.strerror or error})")

    def _tell(self, progress: Progress) -> None:
        if progress.failure is not None:
            return  # it is the last line, as JSON
        now, what = time.monotonic(), (progress.phase, progress.message)
        if what != self._printed or now - self._printed_at >= _LINE_SECONDS:
            self._printed, self._printed_at = what, now
            say(f"{progress.comment()}: {progress.message}" if progress.message else progress.comment())

    def _serve(self) -> None:
        tracker, started, models_dir = self._tracker, time.monotonic(), self._settings.models_dir

        class Handler(BaseHTTPRequestHandler):
            timeout = 5.0  # seconds that a client may be silent
            server_version = "ams-pod"
            sys_version = ""

            def do_GET(self) -> None:
                match self.path.partition("?")[0]:
                    case "/progress":
                        self._answer(200, "application/json", msgspec.json.encode(tracker.snapshot()))
                    case "/metrics":
                        self._answer(200, *exposition_of(tracker, time.monotonic() - started, models_dir))
                    case "/health":
                        self._answer(200, "application/json", b'{"status":"healthy"}')
                    case _:
                        self._answer(404, "application/json", b'{"error":"There are /progress, /metrics and /health."}')

            def _answer(self, status: int, kind: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *arguments: object) -> None:
                pass  # a line each second, from who watches

        class Server(ThreadingHTTPServer):
            address_family = socket.AF_INET6 if ":" in self._settings.progress_host else socket.AF_INET

            def handle_error(self, request: object, client_address: object) -> None:
                pass  # a client that left

        self._server = Server((self._settings.progress_host, self._settings.progress_port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.1,), name="progress", daemon=True).start()
        host, port = self._server.server_address[:2]
        say(f"progress at http://{_bracketed(str(host))}:{port}/progress")


_log_format: LogFormat = "console"


def say_in(log_format: LogFormat) -> None:
    """How lines are said from here on, by this process."""
    global _log_format
    _log_format = log_format


def say(line: str) -> None:
    """One line for a person, or for what collects the logs of pods."""
    if _log_format == "console":
        print(f"ams-pod download: {line}", file=sys.stderr, flush=True)
        return
    record = logging.LogRecord("ams_pod.download", logging.INFO, "", 0, "%s", (line,), None)
    print(JsonLines().format(record), file=sys.stderr, flush=True)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def exposition_of(tracker: Tracker, seconds: float, models_dir: str) -> tuple[str, bytes]:
    """(content type, body) of /metrics, `seconds` after the download began."""
    from prometheus_client import CollectorRegistry, exposition
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector

    class Download(Collector):
        def collect(self) -> Iterator[Metric]:
            shown = tracker.snapshot().download
            yield CounterMetricFamily("ams_download_received_bytes", "Bytes fetched.", tracker.transferred)
            yield CounterMetricFamily("ams_download_seconds", "Time since the download began.", seconds)
            if shown is not None:
                yield GaugeMetricFamily("ams_download_done_bytes", "Bytes that are there.", shown.bytesDone)
                if shown.bytesTotal is not None:
                    yield GaugeMetricFamily("ams_download_size_bytes", "Bytes of the whole.", shown.bytesTotal)
            if (space := space_of(models_dir)) is not None:
                size, free = "Size of the volume with the weights.", "What may still be written to it."
                yield GaugeMetricFamily("ams_download_volume_size_bytes", size, space.size)
                yield GaugeMetricFamily("ams_download_volume_free_bytes", free, space.free)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Download())
    return exposition.CONTENT_TYPE_LATEST, exposition.generate_latest(registry)
