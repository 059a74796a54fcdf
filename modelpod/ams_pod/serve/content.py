"""What a request holds besides its text: found in its fields, checked against the model, and put into messages."""

from collections.abc import Iterator, Sequence
from typing import Any, cast

from ams_common.errors import ApiError
from ams_common.wire import AudioPart, ChatRequest, GenerateRequest, ImagePart, Message, TextPart, VideoPart

from ams_pod.media.decoding import Kind
from ams_pod.media.intake import MediaSource
from ams_pod.media.items import Media, content_part
from ams_pod.media.sizing import Wishes
from ams_pod.serve.wishes import image_wishes, video_wishes, wishes_of

Content = list[str | MediaSource]
"""Texts and media of one message, in their order."""

_KINDS: tuple[Kind, ...] = ("image", "video", "audio")  # the order in which the older API's media reach the model
_ROLES = {"developer": "system"}


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

    def __init__(self, contents: Sequence[tuple[str, Content]]) -> None:
        self._turns = [
            (role, [item if isinstance(item, str) else None for item in content]) for role, content in contents
        ]

    def messages(self, media: Sequence[Media]) -> list[dict[str, Any]]:
        """As `Engine.prepare_chat` takes them; a message without media is plain text."""
        items = iter(media)
        return [{"role": role, "content": _filled(content, items)} for role, content in self._turns]


def _filled(content: Sequence[str | None], items: Iterator[Media]) -> str | list[dict[str, Any]]:
    if None not in content:
        return "\n".join(cast(Sequence[str], content))
    return [content_part(next(items)) if text is None else {"type": "text", "text": text} for text in content]


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
