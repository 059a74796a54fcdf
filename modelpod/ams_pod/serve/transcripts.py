"""The transcript of several windows: joined, and with the time of each."""

from collections.abc import Sequence
from dataclasses import dataclass

from ams_common.wire import TranscriptionSegment


@dataclass(frozen=True, slots=True)
class Segment:
    """What was said in one window, from `start` to `end` in seconds."""

    start: float
    end: float
    text: str


class Joiner:
    """Texts of windows as they come, with one space between windows and none around the whole."""

    def __init__(self) -> None:
        self._held = ""  # white space that stays only if something follows
        self._begun = False

    def push(self, text: str) -> str:
        """What may be shown now."""
        if not self._begun:
            text = text.lstrip()
        if not text:
            return ""
        text = self._held + text
        shown = text.rstrip()
        self._held = text[len(shown) :]
        self._begun = self._begun or bool(shown)
        return shown

    def next_window(self) -> None:
        """What follows is the next window's."""
        if self._begun:
            self._held = " "


def joined(segments: Sequence[Segment]) -> str:
    return " ".join(text for segment in segments if (text := segment.text.strip()))


def srt(segments: Sequence[Segment]) -> str:
    """SubRip: numbered cues."""
    cues = [segment for segment in segments if segment.text.strip()]
    return "".join(
        f"{number}\n{_time(cue.start, ',')} --> {_time(cue.end, ',')}\n{_cue_text(cue)}\n\n"
        for number, cue in enumerate(cues, 1)
    )


def vtt(segments: Sequence[Segment]) -> str:
    """WebVTT."""
    cues = [segment for segment in segments if segment.text.strip()]
    return "WEBVTT\n\n" + "".join(
        f"{_time(cue.start, '.')} --> {_time(cue.end, '.')}\n{_escaped(_cue_text(cue))}\n\n" for cue in cues
    )


def verbose(segments: Sequence[Segment]) -> list[TranscriptionSegment]:
    return [
        TranscriptionSegment(id=number, start=round(each.start, 3), end=round(each.end, 3), text=each.text.strip())
        for number, each in enumerate(segments)
    ]


def _cue_text(segment: Segment) -> str:
    """Without blank lines, which would end the cue."""
    return "\n".join(line for line in segment.text.strip().splitlines() if line.strip())


def _escaped(text: str) -> str:
    """WebVTT has tags and arrows of its own."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _time(seconds: float, point: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}{point}{rest % 1000:03}"
