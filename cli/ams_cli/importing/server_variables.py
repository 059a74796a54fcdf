"""Variables of a container that runs a server: which are the download's, the engine's, or that server's alone."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ams_cli.importing import hub_servers
from ams_cli.importing.credentials import is_secret
from ams_cli.importing.results import Draft
from ams_cli.importing.servers import TEI, TGI

_DOWNLOADS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_ENDPOINT")
_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_TOKEN", "HUGGINGFACE_HUB_TOKEN", "HF_API_TOKEN")
_KEYS = ("VLLM_API_KEY", "LLAMA_API_KEY", "LLAMA_ARG_API_KEY", "SGLANG_API_KEY", "API_KEY")
_CACHES = (
    "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE", "HF_HUB_ENABLE_HF_TRANSFER",
    "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_CACHE", "HF_HUB_DISABLE_XET", "HF_XET_HIGH_PERFORMANCE",
    "VLLM_CACHE_ROOT", "XDG_CACHE_HOME",
)  # fmt: skip
_OF_LLAMA = {
    "MODEL": "-m", "HF_REPO": "-hf", "HF_FILE": "-hff", "MODEL_URL": "-mu", "CTX_SIZE": "-c", "N_PARALLEL": "-np",
    "ALIAS": "-a", "EMBEDDINGS": "--embeddings", "HOST": "--host", "PORT": "--port", "N_GPU_LAYERS": "-ngl",
    "ENDPOINT_METRICS": "--metrics", "JINJA": "--jinja",
}  # fmt: skip
"""llama-server's options by the ends of variables that begin with LLAMA_ARG_."""


def known_values(variables: Sequence[Any]) -> dict[str, str]:
    """What $(NAME) stands for; a variable that refers to something else, and a secret, stand for themselves."""
    known: dict[str, str] = {}
    for each in variables:
        if isinstance(each, dict) and isinstance(name := each.get("name"), str):
            value = each.get("value")
            text = str(value) if isinstance(value, str | int | float) else ""
            known[name] = f"$({name})" if "valueFrom" in each or is_secret(name, text) else text
    return known


def values(variables: Sequence[Any]) -> Iterator[tuple[str, str]]:
    for each in variables:
        if (
            isinstance(each, dict)
            and isinstance(each.get("name"), str)
            and isinstance(each.get("value"), str | int | float)
        ):
            yield each["name"], str(each["value"])


def apply(draft: Draft, engine: str, variables: Sequence[Any]) -> None:
    """The hub's token is the download's; what is of their server alone is told."""
    ours: list[Any] = []
    theirs: list[Any] = []
    for each in variables:
        name = str(each.get("name")) if isinstance(each, dict) else ""
        at = f"variable {name}"
        reference = each.get("valueFrom") if isinstance(each, dict) else None
        secret = reference.get("secretKeyRef") if isinstance(reference, dict) else None
        if name in _TOKENS and isinstance(secret, dict) and secret.get("name") and secret.get("key"):
            draft.set("model.tokenSecretRef", {"name": str(secret["name"]), "key": str(secret["key"])})
        elif name in _TOKENS or name in _DOWNLOADS:
            if not isinstance(each, dict) or each.get("value") not in (None, "") or reference:
                ours.append({**each, "name": "HF_TOKEN" if name in _TOKENS else name})
        elif name in _KEYS:
            draft.lose(at, "keys are made by `ams keys create`")
        elif name in _CACHES:
            draft.say(at, "not needed: weights are downloaded before the engine starts")
        elif engine in (TGI, TEI):
            if not hub_servers.is_option(name):
                draft.lose(at, f"of {engine}")
        elif not (
            engine == "llamacpp" and _OF_LLAMA.get(name.removeprefix("LLAMA_ARG_")) and name.startswith("LLAMA_ARG_")
        ):
            theirs.append(each)
    draft.set("env", ours)
    draft.set("engine.env", [*(draft.get("engine.env") or []), *_last_of_each(theirs)])


def _last_of_each(variables: Sequence[Any]) -> list[Any]:
    """Of several with one name the last counts, as in a container."""
    named = {each["name"]: each for each in variables if isinstance(each, dict) and isinstance(each.get("name"), str)}
    return [
        *named.values(),
        *(each for each in variables if not (isinstance(each, dict) and isinstance(each.get("name"), str))),
    ]


def llama_options(given: Mapping[str, str]) -> list[str]:
    """llama-server's variables as its options; arguments, which count more, come after them."""
    words = []
    for name, value in given.items():
        option = _OF_LLAMA.get(name.removeprefix("LLAMA_ARG_")) if name.startswith("LLAMA_ARG_") else None
        if option:
            words += [option] if value.lower() in ("true", "on", "enabled") else [option, value]
    return words
