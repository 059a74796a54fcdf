"""Messages with media for an engine that makes the prompt itself: media as data URLs, without loss. No torch."""

import base64
import io
import wave
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from PIL import Image as Picture

from ams_pod.engines.openai.pieces import MediaChat
from ams_pod.engines.port import ChatOptions, EngineRefusal
from ams_pod.media.items import Audio, Image, Pixels, Video


def media_chat(messages: Sequence[Mapping[str, Any]], options: ChatOptions) -> MediaChat:
    """In OpenAI's API; with tools for the chat template alone, so that the answer's text stays the model's own.

    EngineRefusal for what this way can't express.
    """
    if options.no_thinking and "enable_thinking" not in options.template_arguments:
        raise EngineRefusal(
            "unsupported", "Thinking can't be turned off in a chat with media, which the engine makes the prompt of."
        )
    fields: dict[str, Any] = {"add_generation_prompt": not options.continue_last}
    if options.continue_last:
        fields["continue_final_message"] = True
    if options.template_arguments:
        fields["chat_template_kwargs"] = dict(options.template_arguments)
    if options.tools:
        fields |= {"tools": list(options.tools), "tool_choice": "none"}
    made = [_message(message) for message in messages]
    rates = [part["video"].frame_rate for part in _parts_of(messages) if part["type"] == "video"]
    return MediaChat(made, fields, sum(rates) / len(rates) if rates else None)


def has_media(messages: Sequence[Mapping[str, Any]]) -> bool:
    return count_media(messages) > 0


def count_media(messages: Sequence[Mapping[str, Any]]) -> int:
    return sum(part["type"] != "text" for part in _parts_of(messages))


def _parts_of(messages: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    for message in messages:
        if not isinstance(message["content"], str):
            yield from message["content"]


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    made = dict(message)
    if not isinstance(message["content"], str):
        made["content"] = [piece for part in message["content"] for piece in _parts(part)]
    if message.get("tool_calls"):
        made["tool_calls"] = [
            {
                **call,
                "function": {
                    **call["function"],
                    "arguments": msgspec.json.encode(call["function"]["arguments"]).decode(),
                },
            }
            for call in message["tool_calls"]
        ]
    return made


def _parts(part: Mapping[str, Any]) -> list[dict[str, Any]]:
    match part:
        case {"type": "image", "image": Image() as image}:
            return [{"type": "image_url", "image_url": {"url": "data:image/png;base64," + png(image.pixels)}}]
        case {"type": "audio", "audio": Audio() as audio}:
            return [_sound(audio)]
        case {"type": "video", "video": Video() as video}:
            frames = ",".join(png(frame) for frame in video.frames)
            shown = {"type": "video_url", "video_url": {"url": "data:video/jpeg;base64," + frames}}
            return [shown, *([_sound(video.audio)] if video.audio is not None else [])]
    return [dict(part)]


def _sound(audio: Audio) -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"data": wav(audio), "format": "wav"}}


def png(pixels: Pixels) -> str:
    """RGB [height, width, 3] as a PNG in base64."""
    made = io.BytesIO()
    Picture.fromarray(np.ascontiguousarray(pixels)).save(made, "PNG", compress_level=1)
    return base64.b64encode(made.getvalue()).decode()


def wav(audio: Audio) -> str:
    """As 16-bit WAV in base64."""
    made = io.BytesIO()
    with wave.open(made, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(audio.rate)
        file.writeframes((np.clip(audio.samples, -1.0, 1.0) * 32767).round().astype("<i2").tobytes())
    return base64.b64encode(made.getvalue()).decode()
