"""What a request holds besides its text: found in its fields, checked against the model, and put into messages."""

from collections.abc import Iterator, Sequence
from typing import Any, cast

from ams_common.errors import ApiError
from ams_common.wire import (
    AudioPart,
    AudioUrlPart,
    ChatRequest,
    FilePart,
    GenerateRequest,
    ImagePart,
    Message,
    TextPart,
    VideoPart,
)

from ams_pod.media.decoding import Kind
from ams_pod.media.intake import MediaSource
from ams_pod.media.items import Decoded, content_part, flat
from ams_pod.media.sizing import Wishes
from ams_pod.serve.history import Extras
from ams_pod.serve.wishes import check_pixels, image_wishes, video_wishes, wishes_of

Content = list[str | MediaSource]
"""Texts and media of one message, in their order."""

_KINDS: tuple[Kind, ...] = ("image", "video", "audio")  # the order in which the older API's media reach the model
_FILES = (
    "Of files, PDF is taken; send images as image_url, audio as input_audio, videos as video_url, and texts as text."
)
_PDF_TYPES = ("data:application/pdf", "data:application/octet-stream", "data:;")
_ROLES = {"developer": "system", "function": "tool"}


def generate_sources(fields: GenerateRequest) -> list[MediaSource]:
    """The media of a /generate body; null and [] are none, an empty text is a file without content."""
    sources = []
    wishes = wishes_of(fields)
    for kind in _KINDS:
        value = getattr(fields, kind)
        if isinstance(value, str):
            sources.append(MediaSource(kind, kind, value, wishes))
        elif value:
            sources += [MediaSource(kind, f"{kind}[{index}]", text, wishes) for index, text in enumerate(value)]
    return sources


def chat_contents(fields: ChatRequest) -> list[tuple[str, Content]]:
    """(role, content) of each message."""
    wishes = wishes_of(fields)
    return [
        (_ROLES.get(message.role, message.role), list(_content(message, f"messages[{index}].content", wishes)))
        for index, message in enumerate(fields.messages)
    ]


def sources_of(contents: Sequence[tuple[str, Content]]) -> list[MediaSource]:
    """All media of a chat, in order."""
    return [item for _, content in contents for item in content if isinstance(item, MediaSource)]


def check_modalities(sources: Sequence[MediaSource], modalities: Sequence[str], model: str) -> None:
    """ApiError `unsupported_modality` for the first medium that the model doesn't take."""
    for source in sources:
        if source.kind not in modalities:
            raise unsupported(source.kind, source.field, modalities, model)


def unsupported(kind: Kind, field: str, modalities: Sequence[str], model: str) -> ApiError:
    takes = " and ".join([", ".join(modalities[:-1]), modalities[-1]] if len(modalities) > 1 else modalities)
    return ApiError(
        "unsupported_modality", f"{model} takes {takes}; it takes no {kind}.",
        param=field, model=model, modalities=list(modalities), given=kind,
    )  # fmt: skip


class Chat:
    """Messages whose media are put in when they are decoded: until then only their places are kept."""

    def __init__(self, contents: Sequence[tuple[str, Content]], extras: Sequence[Extras] | None = None) -> None:
        """`extras` is what each message has beside its role and content."""
        self._turns = [
            (role, [item if isinstance(item, str) else None for item in content]) for role, content in contents
        ]
        self._extras = extras or [{} for _ in contents]

    def messages(self, media: Sequence[Decoded]) -> list[dict[str, Any]]:
        """As `Engine.prepare_chat` takes them; a message without media is plain text."""
        items = iter(media)
        return [
            {"role": role, "content": _filled(content, items), **extra}
            for (role, content), extra in zip(self._turns, self._extras, strict=True)
        ]


def _filled(content: Sequence[str | None], items: Iterator[Decoded]) -> str | list[dict[str, Any]]:
    if None not in content:
        return "\n".join(cast(Sequence[str], content))
    parts: list[dict[str, Any]] = []
    for text in content:
        parts += [{"type": "text", "text": text}] if text is not None else map(content_part, flat([next(items)]))
    return parts


def _content(message: Message, field: str, wishes: Wishes) -> Iterator[str | MediaSource]:
    if not isinstance(message.content, list):
        yield message.content or ""
        return
    for number, part in enumerate(message.content):
        place = f"{field}[{number}]"
        match part:
            case TextPart():
                yield part.text
            case ImagePart():
                own = image_wishes(part, place).over(wishes)
                yield MediaSource("image", f"{place}.image_url.url", part.image_url.url, own)
            case VideoPart():
                own = video_wishes(part, place).over(wishes)
                yield MediaSource("video", f"{place}.video_url.url", part.video_url.url, own)
            case AudioPart():
                yield MediaSource("audio", f"{place}.input_audio.data", part.input_audio.data)
            case AudioUrlPart():
                yield MediaSource("audio", f"{place}.audio_url.url", part.audio_url.url)
            case FilePart():
                yield _document(part, f"{place}.file", wishes)


def _document(part: FilePart, field: str, wishes: Wishes) -> MediaSource:
    """A PDF, whose pages are images. ApiError `invalid_parameter` for what is surely none."""
    file = part.file
    if file.file_data is None:
        name = "file_id" if file.file_id is not None else "file_data"
        raise ApiError(
            "invalid_parameter", f"{field}: {_FILES} Put it into file_data as base64.", param=f"{field}.{name}"
        )
    head = file.file_data[:100].lstrip().lower()
    if head.startswith("data:") and not head.startswith(
        ("data:application/pdf", "data:application/octet-stream", "data:;")
    ):
        raise ApiError("invalid_parameter", f"{field}.file_data: {_FILES}", param=f"{field}.file_data")
    own = Wishes(part.min_pixels, part.max_pixels)
    check_pixels(own, field)
    return MediaSource("image", f"{field}.file_data", file.file_data, own.over(wishes), document=True)
