"""A Hugging Face hub: what a model's revision holds, and the bytes of its files.

huggingface_hub gives the client (proxies, certificates, HF_ENDPOINT, HF_TOKEN, offline mode), the listing, the file
metadata and xet. The bytes are read here: its own download functions write to a file that they delete when they fail
or are killed (since 1.0), so that nothing could be resumed, and wait for any Retry-After, however long.
"""

import ctypes
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import TypeVar, cast
from urllib.parse import quote

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # of this process's children

import httpx2
from ams_common.hub_answers import hub_answered, hub_unreachable, other_commit
from ams_common.hub_files import RemoteFile
from ams_common.outside import InvalidJson
from ams_common.reasons import Reason
from ams_common.source import HubSource
from huggingface_hub import constants, get_hf_file_metadata, get_token, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.file_download import HfFileMetadata
from huggingface_hub.utils._headers import build_hf_headers
from huggingface_hub.utils._http import get_session, hf_raise_for_status
from huggingface_hub.utils._runtime import is_xet_available
from huggingface_hub.utils._validators import validate_repo_id
from huggingface_hub.utils._xet import (
    XetFileData,
    get_xet_session,
    refresh_xet_connection_info,
    xet_headers_without_auth,
)

from ams_pod.download.backoff import retry_after_seconds
from ams_pod.download.failures import Failed, Interrupted
from ams_pod.download.listing import LARGEST_FILE_BYTES, LARGEST_LISTING_BYTES, Listing, read_listing
from ams_pod.download.transfer import Body
from ams_pod.layout import is_commit

# Else the headers of the first request ask the hub who may have called us, for as long as it likes to answer. The
# variable is read at import, which may have been another module's.
constants.HF_HUB_DISABLE_TELEMETRY = True

T = TypeVar("T")

_LIBRARY = "ai-model-server"
_LISTING_SECONDS = 60.0
_HEAD_SECONDS = 90.0  # of an answer until its body begins, redirects included; the client only bounds each read
_MOST_UNKNOWN_BYTES = 256 << 20  # of a file whose size no answer of the hub tells
_DIGEST = re.compile(r"[0-9a-f]{64}")
_M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
_TIMEOUT = httpx2.Timeout(30.0, connect=10.0)

# hf_xet takes up to 6 GB for its buffers unless it is limited. It reads these once, at its first use.
XET_ENVIRONMENT = {
    "HF_XET_DISABLE_MEMORY_DERIVED_DOWNLOAD_BUFFERS": "1",
    "HF_XET_RECONSTRUCTION_DOWNLOAD_BUFFER_SIZE": "32mb",
    "HF_XET_RECONSTRUCTION_DOWNLOAD_BUFFER_PERFILE_SIZE": "8mb",
    "HF_XET_RECONSTRUCTION_DOWNLOAD_BUFFER_LIMIT": "64mb",
    "HF_XET_RECONSTRUCTION_MIN_RECONSTRUCTION_FETCH_SIZE": "16mb",
    "HF_XET_RECONSTRUCTION_MAX_RECONSTRUCTION_FETCH_SIZE": "16mb",
    "HF_XET_RECONSTRUCTION_MIN_PREFETCH_BUFFER": "16mb",
    "HF_XET_CLIENT_AC_MAX_DOWNLOAD_CONCURRENCY": "8",
    "HF_XET_TELEMETRY_ENABLED": "false",
}


class Hub:
    """One model on a hub. Methods raise Interrupted for what may pass, Failed for what won't."""

    def __init__(self, source: HubSource) -> None:
        logging.getLogger("huggingface_hub").setLevel(
            logging.ERROR
        )  # its retries and hints would repeat what we say, with addresses
        self._source = source
        self._token = get_token()
        self._xet = is_xet_available()
        self._one_stream = threading.Lock()  # xet fetches in parallel itself, and each stream has its buffers
        self.endpoint = constants.ENDPOINT

    @property
    def token(self) -> str | None:
        return self._token

    def list(self) -> Listing:
        """Resolve the revision to its commit and list its files."""
        try:
            validate_repo_id(self._source.repository)
        except HFValidationError as error:
            raise Failed(Reason.INVALID_SOURCE, f"hf://{self._source.repository}: {error}.") from None
        try:
            listing = read_listing(self._answer(self._info_url()))
        except InvalidJson:
            raise self._not_a_hub() from None
        if (failure := other_commit(self._source.repository, self._source.revision, listing.commit)) is not None:
            raise Failed.of(failure)
        return listing

    def _info_url(self) -> str:
        path = f"{self.endpoint}/api/models/{self._source.repository}"
        revision = self._source.revision
        return path if revision is None else f"{path}/revision/{quote(revision, safe='')}"

    def _answer(self, url: str) -> bytes:
        """A listing, read within bounds of size and time."""
        body, end = bytearray(), time.monotonic() + _LISTING_SECONDS
        with self._translated(), ExitStack() as stack:
            asked = get_session().stream(
                "GET", url, params={"blobs": "true"}, headers=self._headers(), timeout=_TIMEOUT
            )
            response = self._in_time(lambda: stack.enter_context(asked))
            if response.status_code >= 400:
                hf_raise_for_status(response)
            for piece in response.iter_bytes():
                body += piece
                if len(body) > LARGEST_LISTING_BYTES:
                    raise self._not_a_hub()
                if time.monotonic() > end:
                    raise Interrupted(self._unreachable("its answer takes too long"))
        return bytes(body)

    def with_metadata(self, commit: str, file: RemoteFile) -> RemoteFile:
        """The file with size and hash, which some mirrors leave out of their listing."""
        if file.size is not None:
            return file
        metadata = self._metadata(commit, file)
        if metadata.size is not None and not 0 <= metadata.size <= LARGEST_FILE_BYTES:
            raise self._not_a_hub()
        etag = metadata.etag or ""
        return replace(
            file,
            size=metadata.size,
            sha256=etag if _DIGEST.fullmatch(etag) else file.sha256,
            blob_id=etag if is_commit(etag) else file.blob_id,
        )

    @contextmanager
    def open(self, commit: str, file: RemoteFile, offset: int) -> Iterator[Body]:
        """The bytes of a file from `offset`, by xet where the hub and this machine have it, else by HTTP."""
        xet = self._metadata(commit, file).xet_file_data if self._xet and file.sha256 and file.size else None
        with ExitStack() as stack:
            if xet is not None:
                stack.enter_context(self._one_stream)
                yield self._open_xet(stack, xet, file, offset)
            else:
                yield self._open_http(stack, commit, file, offset)

    def _open_http(self, stack: ExitStack, commit: str, file: RemoteFile, offset: int) -> Body:
        headers = {**self._headers(), "Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        with self._translated():
            asked = get_session().stream("GET", self._url(commit, file), headers=headers, timeout=_TIMEOUT)
            response = self._in_time(lambda: stack.enter_context(asked))
            if response.status_code == 416:
                raise Interrupted(self._cut(file))
            hf_raise_for_status(response)
        start = offset if _content_start(response) == offset else 0
        if start != offset and response.status_code == 206:
            raise Interrupted(self._cut(file))
        encoded = response.headers.get("Content-Encoding", "identity") != "identity"
        pieces = self._pieces(response.iter_bytes() if encoded else response.iter_raw())
        return Body(start, pieces if file.size is not None else self._bounded(file, pieces))

    def _bounded(self, file: RemoteFile, pieces: Iterator[bytes]) -> Iterator[bytes]:
        count = 0
        for piece in pieces:
            count += len(piece)
            if count > _MOST_UNKNOWN_BYTES:
                text = f"{self.endpoint} sends {file.path} without a size and without an end."
                raise Failed(Reason.HUB_REFUSED, text)
            yield piece

    def _open_xet(self, stack: ExitStack, xet: XetFileData, file: RemoteFile, offset: int) -> Body:
        _bound_memory_of_xet()
        from hf_xet import XetFileInfo  # type: ignore[import-untyped]  # reads the environment

        headers = self._headers()
        try:
            connection = refresh_xet_connection_info(file_data=xet, headers=headers)
            session = get_xet_session()  # type: ignore[no-untyped-call]
            group = session.new_download_stream_group(
                endpoint=connection.endpoint,
                token=connection.access_token,
                token_expiry_unix_secs=connection.expiration_unix_epoch,
                token_refresh_url=xet.refresh_route,
                token_refresh_headers=headers,
                custom_headers=xet_headers_without_auth(headers),
            )
            stream = group.download_stream(XetFileInfo(xet.file_hash, file.size), start=offset)
        except Exception:
            raise self._without_xet(file) from None
        stack.callback(stream.cancel)
        return Body(offset, self._xet_pieces(stream, file))

    def _xet_pieces(self, stream: Iterator[bytes], file: RemoteFile) -> Iterator[bytes]:
        try:
            yield from stream
        except Exception:  # its errors have no common type
            raise self._without_xet(file) from None

    def _pieces(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        with self._translated():
            yield from pieces

    def _without_xet(self, file: RemoteFile) -> Interrupted:
        self._xet = False  # a network that lets the hub pass but not its xet storage: go on by HTTP
        return Interrupted(self._cut(file))

    def _metadata(self, commit: str, file: RemoteFile) -> HfFileMetadata:
        with self._translated():
            return self._in_time(
                lambda: get_hf_file_metadata(
                    self._url(commit, file), token=self._token or False, timeout=30.0, library_name=_LIBRARY
                )
            )

    def _in_time(self, ask: Callable[[], T]) -> T:
        """What `ask` returns or raises. Interrupted if its answer doesn't begin in time: headers may drip for ever."""
        answer: SimpleQueue[tuple[T, None] | tuple[None, BaseException]] = SimpleQueue()

        def work() -> None:
            try:
                answer.put((ask(), None))
            except BaseException as error:
                answer.put((None, error))

        threading.Thread(target=work, name="hub", daemon=True).start()  # it is left alone where it hangs
        try:
            value, error = answer.get(timeout=_HEAD_SECONDS)
        except Empty:
            raise Interrupted(self._unreachable("its answer doesn't begin")) from None
        if error is not None:
            raise error
        return cast(T, value)

    def _headers(self) -> dict[str, str]:
        return build_hf_headers(token=self._token or False, library_name=_LIBRARY)

    def _url(self, commit: str, file: RemoteFile) -> str:
        return hf_hub_url(self._source.repository, file.path, revision=commit)

    def _cut(self, file: RemoteFile) -> Failed:
        return Failed(
            Reason.HUB_UNREACHABLE,
            f"The transfer of {file.path} from {self.endpoint} breaks off each time.",
            retryable=True,
        )

    def _unreachable(self, cause: str) -> Failed:
        return Failed.of(hub_unreachable(self.endpoint, cause))

    def _not_a_hub(self) -> Failed:
        return Failed(
            Reason.HUB_REFUSED, f"{self.endpoint} doesn't answer as a Hugging Face hub does; check HF_ENDPOINT."
        )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except HfHubHTTPError as error:
            raise self._of_answer(error.response) from None
        except OfflineModeIsEnabled:
            raise Interrupted(self._unreachable("HF_HUB_OFFLINE is set")) from None
        except httpx2.TransportError as error:
            raise Interrupted(self._unreachable(str(error) or type(error).__name__)) from None
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError):  # too many redirects, headers of no sense
            raise self._not_a_hub() from None

    def _of_answer(self, response: httpx2.Response) -> Failed | Interrupted:
        status = response.status_code
        wait = retry_after_seconds(response.headers.get("Retry-After"), response.headers.get("RateLimit"), time.time())
        if response.url.host != httpx2.URL(self.endpoint).host and 400 <= status < 500 and status != 429:
            # A signed address of the storage ran out: the next try gets a new one.
            text = f"The hub's storage at {response.url.host} refused a file ({status})."
            return Interrupted(Failed(Reason.HUB_UNREACHABLE, text, retryable=True))
        failure = hub_answered(
            status,
            response.headers.get("X-Error-Code"),
            response.headers.get("X-Error-Message"),
            repository=self._source.repository,
            revision=self._source.revision,
            hub=self.endpoint,
            token=self._token is not None,
        )
        return Interrupted(Failed.of(failure), wait) if failure.retryable else Failed.of(failure)


def _bound_memory_of_xet() -> None:
    for name, value in XET_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with suppress(OSError, AttributeError):  # another C library
        # glibc keeps large blocks that were freed, for each of xet's threads: three times the memory.
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 1 << 20)


def _content_start(response: httpx2.Response) -> int:
    """The offset of an answer's first byte."""
    if response.status_code != 206:
        return 0
    unit, _, span = response.headers.get("Content-Range", "").partition(" ")
    first = span.partition("-")[0]
    return int(first) if unit == "bytes" and first.isdigit() else -1
