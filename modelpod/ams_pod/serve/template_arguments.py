"""Arguments of a chat template, and whether a model thinks: many fields mean the same."""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ams_common.errors import ApiError
from ams_common.wire import ChatRequest

_SWITCHES = ("enable_thinking", "thinking")  # names by which templates take it
_CODE = re.compile(r"\{[%{](.*?)[%}]\}", re.S)
_TEXT = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.S)
_VARIABLE = re.compile(r"(?<![.\w])[A-Za-z_]\w*")
_OWN = frozenset(
    {
        "messages", "conversation", "conversations", "tools", "documents", "chat_template", "add_generation_prompt",
        "continue_final_message", "tokenize", "tokenizer_kwargs", "processor_kwargs", "padding", "truncation",
        "max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask", "sanitize_control_tokens",
        "load_audio_from_video", "images", "videos", "audio", "raise_exception", "strftime_now",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class TemplateArguments:
    """What the template gets beside its own. `no_thinking`: the model is kept from thinking by a block that is closed.

    `ignored` are fields that the template doesn't know.
    """

    arguments: Mapping[str, Any] = field(default_factory=dict)
    no_thinking: bool = False
    ignored: tuple[str, ...] = ()


def template_arguments(fields: ChatRequest, template: str, *, reasons: bool) -> TemplateArguments:
    """`template` is its text, `reasons` whether the model knows reasoning blocks. ApiError for a name of our own."""
    known = variables_of(template)
    thinks, effort, where = _asked(fields)
    arguments: dict[str, Any] = {}
    ignored: list[str] = []
    for name, value in (fields.chat_template_kwargs or {}).items():
        if name in _OWN or name.endswith(("_token", "_tokens")):
            raise ApiError(
                "invalid_parameter", f"chat_template_kwargs: {name[:100]} is no argument that a request may set.",
                param="chat_template_kwargs",
            )  # fmt: skip
        if name in known:
            arguments[name] = value
        elif name in _SWITCHES and isinstance(value, bool):
            thinks = value if thinks is None else thinks
        else:
            ignored.append(f"chat_template_kwargs.{name}")
    if effort is not None and effort != "none":
        if "reasoning_effort" in known:
            arguments.setdefault("reasoning_effort", effort)
        elif effort != "medium":
            ignored.append(where)
    switch = next((name for name in _SWITCHES if name in known), None)
    if thinks is not None and switch is not None:
        arguments.setdefault(switch, thinks)
    return TemplateArguments(arguments, thinks is False and switch is None and reasons, tuple(ignored))


def tells_thoughts(fields: ChatRequest) -> bool:
    """Whether the answer has the thoughts beside it."""
    excluded = fields.reasoning is not None and fields.reasoning.exclude is True
    return fields.include_reasoning is not False and not excluded


def _asked(fields: ChatRequest) -> tuple[bool | None, str | None, str]:
    """Whether the model is to think, how much, and which field says so."""
    efforts: list[tuple[str, Any]] = [("reasoning_effort", fields.reasoning_effort), ("think", fields.think)]
    if fields.reasoning is not None:
        efforts.append(("reasoning.effort", fields.reasoning.effort))
    where, effort = next(((name, each) for name, each in efforts if isinstance(each, str)), ("", None))
    switches: list[Any] = [fields.enable_thinking, fields.think, fields.thinking]
    if fields.reasoning is not None:
        switches.append(fields.reasoning.enabled)
    if fields.thinking is not None and not isinstance(fields.thinking, bool):
        switches.append({"enabled": True, "disabled": False}.get(fields.thinking.type))
    if effort is not None:
        switches.append(False if effort == "none" else None)
    told = {each for each in switches if isinstance(each, bool)}
    if len(told) == 2:
        raise ApiError(
            "invalid_parameter", "enable_thinking: other fields of the request say the opposite.",
            param="enable_thinking",
        )  # fmt: skip
    return (told.pop() if told else None), effort, where


@functools.lru_cache(maxsize=16)
def variables_of(template: str) -> frozenset[str]:
    """Names in the code of a template that are no fields of something else, and no words in its texts."""
    code = " ".join(_CODE.findall(template))
    return frozenset(_VARIABLE.findall(_TEXT.sub(" ", code)))
