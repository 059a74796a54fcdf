"""How the chat template of a model's processor takes messages: found by rendering a few, when the model is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ams_pod.engines.port import LoadFailed

_TEXT = "ams47text11"  # no template has it, and none changes it
_SPECIALS = ("image_token", "boi_token", "video_token", "audio_token")


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """`placeholder` stands for one image in the template's output; `marks` are texts that stand for media somewhere.

    `plain_roles` are those whose contents the template takes only as a text, and not as a list of parts.
    """

    placeholder: str
    marks: tuple[str, ...]
    plain_roles: frozenset[str]


def chat_format(processor: Any) -> ChatFormat:
    """LoadFailed if the processor has no chat template, or one that has no place for images."""
    name = type(processor).__name__
    tokenizer = getattr(processor, "tokenizer", None)
    if getattr(processor, "image_processor", None) is None or not hasattr(tokenizer, "backend_tokenizer"):
        raise LoadFailed(f"{name} has no image processor, or no fast tokenizer, so no prompt with images can be made")
    if not getattr(processor, "chat_template", None):
        raise LoadFailed(
            "the model has no chat template (chat_template.jinja, or chat_template in its processor's files), so it is "
            "unknown how its prompts are written; use a model that was tuned for chats"
        )
    plain = frozenset(role for role in ("system", "user", "assistant", "tool") if not _takes_parts(processor, role))
    marks = _marks(processor, tokenizer)
    with_images = [_rendered(processor, _with_images(count)) or "" for count in range(3)]
    for mark in marks:
        if [text.count(mark) for text in with_images] == [0, 1, 2] and "user" not in plain:
            return ChatFormat(mark, marks, plain)
    raise LoadFailed("the model's chat template has no place for images in a message of the user")


def _takes_parts(processor: Any, role: str) -> bool:
    """Whether a list of parts comes out as its text. A template that prints what it gets would show it as Python."""
    text = _rendered(processor, _conversation(role, [{"type": "text", "text": _TEXT}]))
    if text is not None and text.count(_TEXT) == 1 and "'type'" not in text and '"type"' not in text:
        return True
    return _TEXT not in (_rendered(processor, _conversation(role, _TEXT)) or "")  # neither way: it refuses the role


def _conversation(role: str, content: Any) -> list[dict[str, Any]]:
    user = {"role": "user", "content": [{"type": "text", "text": "x"}]}
    message = {"role": role, "content": content}
    call = {"id": "abcdefghi", "type": "function", "function": {"name": "x", "arguments": {}}}
    called = {"role": "assistant", "content": [{"type": "text", "text": "x"}], "tool_calls": [call]}
    result = {**message, "tool_call_id": "abcdefghi", "name": "x"}
    return {
        "system": [message, user],
        "user": [message],
        "assistant": [user, message, user],
        "tool": [user, called, result],
    }[role]


def _with_images(count: int) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [*({"type": "image"} for _ in range(count)), {"type": "text", "text": _TEXT}]}]


def _rendered(processor: Any, messages: Sequence[dict[str, Any]]) -> str | None:
    """None where the template refuses the messages."""
    try:
        text: str = processor.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
    except Exception:  # a template raises what it likes, jinja2.TemplateError among others
        return None
    return text


def _marks(*objects: Any) -> tuple[str, ...]:
    """Special tokens for media, of the processor and its tokenizer."""
    values = (getattr(each, name, None) for each in objects for name in _SPECIALS)
    return tuple(dict.fromkeys(value for value in values if isinstance(value, str) and value))
