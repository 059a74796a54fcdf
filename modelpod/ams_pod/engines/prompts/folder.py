"""What a folder of weights says of texts: its tokenizer and its configuration, read without torch."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ams_common.config_bounds import absurd_size
from ams_common.gguf_embedding import DESCRIPTION
from ams_common.outside import InvalidJson, read_json
from tokenizers import Tokenizer

from ams_pod.engines.port import LoadFailed

_TOKENIZER, _TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
_ELSEWHERE = {"added_tokens_decoder", "fast_tokenizer_files"}  # where tokenizer.json isn't asked for added tokens
_OLDER_FILES = ("special_tokens_map.json", "added_tokens.json")
_FAULTS = (OSError, ValueError, KeyError, ImportError, RuntimeError, AttributeError, TypeError)


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder, of transformers. LoadFailed if its files are missing or damaged.

    The one of tokenizer.json, which needs nothing else; only where there is none, transformers makes it of older files.
    """
    with _sentences(folder):
        if (folder / _TOKENIZER).is_file():
            return _of_tokenizer_json(folder)
        return _declared(folder)


def read_tokenizer_if_any(folder: Path) -> Any:
    """As `load_tokenizer`; None for a folder that was made of a file whose tokenizer isn't read here."""
    return None if (folder / DESCRIPTION).is_file() else load_tokenizer(folder)


def load_declared_tokenizer(folder: Path) -> Any:
    """The tokenizer of the class that transformers takes for the folder. LoadFailed as `load_tokenizer`."""
    with _sentences(folder):
        return _of_tokenizer_json(folder) if _declares_no_class(folder) else _declared(folder)


@contextmanager
def _sentences(folder: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # The Rust side raises plain Exceptions for a file that it can't read.
        if not isinstance(error, _FAULTS) and type(error) is not Exception:
            raise
        raise LoadFailed(f"the tokenizer in {folder} can't be used: {type(error).__name__}: {error}") from error


def _declared(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def _declares_no_class(folder: Path) -> bool:
    """Whether AutoTokenizer would take tokenizer.json as it is; it may where this says no."""
    from transformers.models.auto.tokenization_auto import (
        MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS,
        TOKENIZER_MAPPING_NAMES,
    )

    told, model = _fields(folder / _TOKENIZER_CONFIG), _fields(folder / "config.json")
    kind, name = str(model.get("model_type")), str(model.get("model_name"))
    return (
        (folder / _TOKENIZER).is_file()
        and told.get("tokenizer_class") in ("TokenizersBackend", "PreTrainedTokenizerFast")
        and "auto_map" not in told
        and TOKENIZER_MAPPING_NAMES.get(kind) != "MistralCommonBackend"
        and not {kind, name} & MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS
    )


def _of_tokenizer_json(folder: Path) -> Any:
    """By tokenizer.json, which is parsed once; transformers parses it twice if it isn't told of added tokens."""
    from transformers.tokenization_utils_tokenizers import TokenizersBackend

    given: dict[str, Any] = {}
    told = _fields(folder / _TOKENIZER_CONFIG)
    if not (_ELSEWHERE & told.keys()) and not any((folder / name).exists() for name in _OLDER_FILES):
        backend = Tokenizer.from_file(str(folder / _TOKENIZER))
        given = {"tokenizer_object": _Given(backend), "added_tokens_decoder": backend.get_added_tokens_decoder()}
    return TokenizersBackend.from_pretrained(folder, local_files_only=True, **given)


class _Given:
    """A tokenizer whose only copy is itself: transformers copies one that it is given, which takes long."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def __deepcopy__(self, memo: object) -> Tokenizer:
        return self._tokenizer


def _fields(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none that can be read: whoever needs it says so."""
    try:
        found = read_json(path.read_bytes())
    except (OSError, InvalidJson):
        return {}
    return found if isinstance(found, dict) else {}


def read_model_config(folder: Path) -> dict[str, Any]:
    """config.json. LoadFailed if there is none, it is no JSON object, or has sizes that no model has."""
    try:
        config = read_json((folder / "config.json").read_bytes())
    except OSError:
        raise LoadFailed(f"{folder} holds no config.json, so it is not a model's folder") from None
    except InvalidJson as error:
        raise LoadFailed(f"{folder / 'config.json'} {error}") from None
    if not isinstance(config, dict):
        raise LoadFailed(f"{folder / 'config.json'} is not a JSON object")
    if (sentence := absurd_size(config)) is not None:
        raise LoadFailed(sentence)
    return config
