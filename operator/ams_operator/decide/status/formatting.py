"""Numbers for people: how far a download is."""

from ams_common.progress import Download, Progress, load_percent
from ams_common.quantity import format_bytes, format_duration


def percent(progress: Progress | None) -> int | None:
    if progress is None:
        return None
    if (share := load_percent(progress)) is not None:
        return share
    if progress.percent is not None:
        return int(progress.percent)
    download = progress.download
    if download is None or not download.bytesTotal:
        return None
    return int(100 * download.bytesDone / download.bytesTotal)


def download_sentence(download: Download) -> str:
    """`43 %, 2.9 of 6.8 GiB at 21.0 MiB/s, ETA 3m10s`"""
    if not download.bytesTotal:
        return f"{format_bytes(download.bytesDone)} so far" + _rate(download)
    done, total = format_bytes(download.bytesDone), format_bytes(download.bytesTotal)
    done = done.removesuffix(" " + total.rpartition(" ")[2])
    share = int(100 * download.bytesDone / download.bytesTotal)
    eta = f", ETA {format_duration(download.etaSeconds)}" if download.etaSeconds is not None else ""
    return f"{share} %, {done} of {total}{_rate(download)}{eta}"


def _rate(download: Download) -> str:
    return f" at {format_bytes(download.bytesPerSecond)}/s" if download.bytesPerSecond else ""
