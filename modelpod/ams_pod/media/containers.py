"""Audio and video files, opened by FFmpeg's libraries through PyAV without trust.

Only demuxers of the allow-list open: playlists (HLS, DASH, concat) and image sequences name further files, which
FFmpeg would fetch. What one of the list would open besides is refused too. Codecs run on the calling thread alone, so
that its processor time is the item's.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, BinaryIO, NoReturn

import av
import av.container
import av.error
import av.logging
from ams_common.errors import ApiError

from ams_pod.media.limits import undecodable
from ams_pod.media.watch import DecodingStopped, Watch

AUDIO_FORMATS = ("wav", "w64", "aiff", "au", "caf", "mp3", "flac", "aac", "amr", "ogg")
VIDEO_FORMATS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "mpegts", "mpeg", "flv", "asf", "gif")
_TAKEN = {
    "audio": "WAV, MP3, FLAC, M4A, AAC, OGG, Opus, WebM, AIFF, CAF, AMR, AU or WMA",
    "video": "MP4, MOV, WebM, MKV, AVI, MPEG, FLV, WMV or GIF",
}
_OPTIONS = {"max_streams": "64", "protocol_whitelist": "none"}
_BUFFER_BYTES = 256 << 10
_BROKEN = (av.error.InvalidDataError, av.error.EOFError)

av.logging.set_level(None)  # a broken file's complaints belong into its answer, not into the log


@contextlib.contextmanager
def opened(file: BinaryIO, kind: str, field: str) -> Iterator[av.container.InputContainer]:
    """The file's container. Whatever FFmpeg refuses inside the block is ApiError `undecodable_<kind>`."""
    options = _OPTIONS | {"format_whitelist": ",".join(VIDEO_FORMATS + AUDIO_FORMATS)}
    if not file.read(1):
        raise undecodable(kind, field, "it is empty")
    file.seek(0)
    try:
        with av.open(
            file, container_options=options, metadata_errors="replace", buffer_size=_BUFFER_BYTES, io_open=_refuse
        ) as container:
            yield container
    except (ApiError, DecodingStopped, MemoryError):
        raise
    except (av.error.FFmpegError, OSError, ValueError, RuntimeError, UnicodeError) as error:
        raise undecodable(kind, field, _reason(error, kind)) from None


def packets(container: Any, stream: Any) -> Iterator[Any]:
    """The packets of a stream up to its end, or to where the file is broken."""
    source = container.demux(stream)
    while True:
        try:
            yield next(source)
        except (StopIteration, *_BROKEN):
            return


def decoded_frames(container: Any, stream: Any, watch: Watch) -> Iterator[Any]:
    """All frames that decode from here on; broken packets are left out."""
    for packet in packets(container, stream):
        watch.check()
        with contextlib.suppress(*_BROKEN):
            yield from packet.decode()
    with contextlib.suppress(*_BROKEN):  # what the decoder still holds, unless the file's own end made it tell
        yield from stream.codec_context.decode(None)


def _refuse(*_: Any) -> NoReturn:
    raise PermissionError("it names further files")


def _reason(error: Exception, kind: str) -> str:
    if isinstance(error, av.error.InvalidDataError):
        return f"it is in no format that is known here, or broken; send {_TAKEN[kind]}"
    if isinstance(error, av.error.ArgumentError):
        return f"its format is not supported; send {_TAKEN[kind]}"
    if isinstance(error, av.error.DecoderNotFoundError):
        return "its codec is not supported"
    if isinstance(error, av.error.FFmpegError):
        return (error.strerror or str(error)).rstrip(".").lower()
    return str(error).rstrip(".").partition("\n")[0][:200] or type(error).__name__
