"""Secrets that a document holds in plain text. They get into no output and no message."""

import re
from collections.abc import Iterator
from typing import Any

from ams_cli.importing.results import Draft
from ams_cli.importing.words import options

_IN_ADDRESSES = re.compile(
    r"(?<=://)[^/\s@]+(?=@)|(?<=[?&])(?:[\w-]{0,40}(?:token|sig|signature|key|credential)[\w-]{0,40})=[^&\s]+", re.I
)
_TOKENS = re.compile(
    r"(?<![A-Za-z0-9])(?:hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|nvapi-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{16,}|"
    r"github_pat_[A-Za-z0-9_]{16,}|glpat-[A-Za-z0-9_-]{16,}|AKIA[A-Z0-9]{16}|"
    r"eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]*)"
)
"""As the hub, OpenAI's and NVIDIA's services, GitHub, GitLab and AWS write them, and signed tokens."""
_VARIABLE = re.compile(r"(?:^|_)(?:(?:api)?_?key|token|secret|passw(?:or)?d|pwd|pat|credentials?)$", re.I)
_OPTION = re.compile(
    r"(?:^|-)(?:api-?key|(?:hf|auth|access|api|bearer)-token|secret(?:-key)?|password|credentials?)$", re.I
)
_REFERENCE = re.compile(r"\$\([A-Za-z_][A-Za-z0-9_.-]*\)")
_HUB = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_REMOVED = "REMOVED"


def masked(text: str, instead: str = "...") -> str:
    """A text without the users, passwords and signatures of the addresses in it, and without tokens."""
    return _TOKENS.sub(instead, _IN_ADDRESSES.sub(instead, text))


def is_secret(name: str, value: str) -> bool:
    """Whether a variable of that name holds a secret itself; not where it refers to one, as in $(NAME)."""
    if not value or _REFERENCE.fullmatch(value):
        return False
    return _VARIABLE.search(name) is not None or masked(value) != value


def without_secrets(draft: Draft) -> None:
    """Take secrets in plain text out of a draft, and say of each what to do."""
    for field, at in (("env", draft.spec), ("env", draft.spec.get("engine", {}))):
        if isinstance(found := at.get(field), list):
            at[field] = [each for each in found if not _told(draft, each)]
            if not at[field]:
                del at[field]
    engine = draft.spec.get("engine", {})
    if isinstance(args := engine.get("args"), list):
        engine["args"] = list(_plain_args(draft, args))
        if not engine["args"]:
            del engine["args"]
    draft.spec = _cleaned(draft, draft.spec, "spec")
    draft.metadata = _cleaned(draft, draft.metadata, "metadata")
    draft.name = masked(draft.name, _REMOVED)
    draft.aliases = [_cleaned(draft, alias, "spec.model.aliases") for alias in draft.aliases]


def _told(draft: Draft, variable: Any) -> bool:
    """Whether a variable is a secret in plain text; it is told then."""
    if not isinstance(variable, dict) or not isinstance(value := variable.get("value"), str):
        return False
    name = str(variable.get("name"))
    if not is_secret(name, value):
        return False
    if name in _HUB:
        text = (
            "a secret in plain text, not repeated here: `kubectl create secret generic hf --from-literal=token=...` "
            "and set model.tokenSecretRef: {name: hf}; on a laptop, HF_TOKEN in the environment of `ams up`"
        )
    else:
        text = "a secret in plain text, not repeated here: put it in a Secret, and name that by valueFrom.secretKeyRef"
    draft.lose(f"variable {name}", text)
    return True


def _plain_args(draft: Draft, args: list[Any]) -> Iterator[str]:
    for option in options([str(each) for each in args]):
        value = " ".join(option.values)
        named = _OPTION.search(option.name) is not None and bool(value) and not _REFERENCE.fullmatch(value)
        if named or masked(" ".join(option.words)) != " ".join(option.words):
            draft.lose(
                f"argument {masked(option.name)}",
                "a secret in plain text, not repeated here: put it in a Secret, and pass it as a variable of "
                "engine.env, as in $(NAME)",
            )
        else:
            yield from option.words


def _cleaned(draft: Draft, value: Any, where: str) -> Any:
    """A value of which no text holds a token."""
    if isinstance(value, dict):
        return {key: _cleaned(draft, each, f"{where}.{key}") for key, each in value.items()}
    if isinstance(value, list):
        return [_cleaned(draft, each, where) for each in value]
    if isinstance(value, str) and masked(value) != value:
        draft.lose(where, f"held a secret in plain text, which is {_REMOVED} here")
        return masked(value, _REMOVED)
    return value
