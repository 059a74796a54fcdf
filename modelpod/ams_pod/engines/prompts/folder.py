"""What a folder of weights says of texts: its tokenizer and its configuration, read without torch."""

from pathlib import Path
from typing import Any

from ams_common.config_bounds import absurd_size
from ams_common.outside import InvalidJson, read_json

from ams_pod.engines.port import LoadFailed

_FAULTS = (OSError, ValueError, KeyError, ImportError, RuntimeError, AttributeError, TypeError)


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder, of transformers. LoadFailed if its files are missing or damaged.

    The one of tokenizer.json, which needs nothing else; only where there is none, transformers makes it of older files.
    """
    try:
        if (folder / "tokenizer.json").is_file():
            from transformers.tokenization_utils_tokenizers import TokenizersBackend

            return TokenizersBackend.from_pretrained(folder, local_files_only=True)
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        # The Rust side raises plain Exceptions for a file that it can't read.
        if not isinstance(error, _FAULTS) and type(error) is not Exception:
            raise
        raise LoadFailed(f"the tokenizer in {folder} can't be used: {type(error).__name__}: {error}") from error


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
