"""One line a request, written in batches: a line costs well under a microsecond until its batch goes out."""

import asyncio
import os
import sys
import time
from collections.abc import Callable
from typing import Literal

import msgspec
from ams_common.printable import printable
from ams_common.request_usage import RequestUsage

_FLUSH_SECONDS = 0.05
_FLUSH_BYTES = 256 << 10
_PIPE_BYTES = 4096  # PIPE_BUF of Linux


class Record(msgspec.Struct, omit_defaults=True, gc=False):
    """What is known of one request when it ends; never prompts, answers or keys. Times are in seconds."""

    time: str = ""
    id: str = ""
    method: str = ""
    path: str = ""
    route: str = ""
    model: str = ""
    code: int = 0
    seconds: float = 0.0
    first_byte_seconds: float | None = None
    held_seconds: float | None = None
    key: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int = 0
    media: int = 0
    compute_seconds: float | None = None
    answer_cache: str = ""
    pod: str = ""
    retries: int = 0
    error: str = ""

    def usage(self) -> RequestUsage:
        """What the request used, as far as its pod told."""
        return RequestUsage(
            prompt_tokens=self.prompt_tokens or 0,
            completion_tokens=self.completion_tokens or 0,
            cached_tokens=self.cached_tokens,
            media=self.media,
            compute_seconds=self.compute_seconds or 0.0,
        )


def write_stdout(lines: bytes) -> None:
    sys.stdout.buffer.write(lines)
    sys.stdout.buffer.flush()


def write_lines(lines: bytes) -> None:
    """To a stdout that other processes write to as well: no more at once than a pipe takes in one piece."""
    start = 0
    while start < len(lines):
        end = len(lines) if len(lines) - start <= _PIPE_BYTES else lines.rfind(b"\n", start, start + _PIPE_BYTES) + 1
        end = end if end > start else lines.find(b"\n", start) + 1 or len(lines)
        os.write(1, lines[start:end])
        start = end


class RequestLog:
    """Collects lines and hands them to `write` every 50 ms. Use it on the event loop's thread only."""

    def __init__(
        self, write: Callable[[bytes], object] = write_stdout, style: Literal["console", "json"] = "console"
    ) -> None:
        self._write = write
        self._buffer = bytearray()
        self._flush_handle: asyncio.TimerHandle | None = None
        self._append = self._append_json if style == "json" else self._append_console
        self._encoder = msgspec.json.Encoder()
        self._second = 0
        self._second_text = ""

    def add(self, record: Record) -> None:
        record.time = self._timestamp()
        self._append(record)
        if self._flush_handle is None:
            self._flush_handle = asyncio.get_running_loop().call_later(_FLUSH_SECONDS, self.flush)
        elif len(self._buffer) > _FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what was collected; a sink that fails loses these lines, never a request."""
        if self._flush_handle is not None:
            self._flush_handle.cancel()
            self._flush_handle = None
        lines, self._buffer = bytes(self._buffer), bytearray()
        if lines:
            try:
                self._write(lines)
            except (OSError, ValueError) as error:
                os.write(2, f"ams-gateway: the request log can't be written: {error}\n".encode())

    def _append_json(self, record: Record) -> None:
        self._encoder.encode_into(record, self._buffer, -1)
        self._buffer += b"\n"

    def _append_console(self, record: Record) -> None:
        self._buffer += console_line(record).encode(errors="backslashreplace")

    def _timestamp(self) -> str:
        now = time.time()
        second = int(now)
        if second != self._second:
            self._second = second
            self._second_text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._second_text}.{int((now - second) * 1000):03d}Z"


def console_line(record: Record) -> str:
    """`12:00:01.234 200 POST /generate/smollm2 0.412s first 0.051s 12+34 tokens id 5f0c…`"""
    parts = [record.time[11:23], str(record.code), record.method, printable(record.path), f"{record.seconds:.3f}s"]
    if record.first_byte_seconds is not None:
        parts.append(f"first {record.first_byte_seconds:.3f}s")
    if record.held_seconds is not None:
        parts.append(f"held {record.held_seconds:.3f}s")
    if record.key:
        parts.append(f"key {record.key}")
    if record.answer_cache:
        parts.append(f"cache {record.answer_cache}")
    if record.completion_tokens is not None:
        parts.append(f"{record.prompt_tokens}+{record.completion_tokens} tokens")
    if record.retries:
        parts.append(f"retries {record.retries}")
    if record.pod:
        parts.append(f"pod {record.pod}")
    if record.error:
        parts.append(record.error)
    return " ".join(parts) + f" id {record.id}\n"
