"""Settings of `ams up`: each field is a flag and an AMS_* variable (see ams_common.options)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec
from ams_gateway.settings import HttpSettings
from msgspec import Meta

_APPLICATION = "ai-model-server"


class UpSettings(HttpSettings, frozen=True, kw_only=True):
    """Settings of `ams up`: those of its gateway, and of the models' processes."""

    host: Annotated[str, Meta(min_length=1, description="address to listen on")] = "127.0.0.1"
    models_dir: Annotated[
        str, Meta(description="folder that keeps the weights; default $XDG_DATA_HOME/ai-model-server/models")
    ] = ""
    log_dir: Annotated[
        str, Meta(description="folder for logs, one file a model; default $XDG_STATE_HOME/ai-model-server/logs")
    ] = ""
    usage_file: Annotated[
        str,
        Meta(
            description="SQLite file that keeps what each key has used, with Redis only until Redis has it; default "
            "$XDG_STATE_HOME/ai-model-server/usage.db"
        ),
    ] = ""
    grace_seconds: Annotated[
        float, Meta(ge=0, le=3600, description="seconds that running requests get to finish on Ctrl-C")
    ] = 30.0
    memory_limit: Annotated[
        str,
        Meta(
            description="upper limit of memory for all models together, as in 16Gi (GPU memory where there is a GPU); "
            "idle models stop to make room; default: what the machine has"
        ),
    ] = ""
    media_url_hosts: Annotated[
        str,
        Meta(
            description="hosts that media may be fetched from, separated by commas, by models whose manifest has no "
            "limits.mediaUrlHosts; empty: no URLs"
        ),
    ] = ""
    temp_dir: Annotated[
        str, Meta(description="folder for large uploads while they are decoded; empty: the system's")
    ] = ""
    engine_paths: Annotated[
        str,
        Meta(
            description="programs of engines that are not on PATH, as in vllm=/opt/vllm/bin/vllm, separated by commas; "
            "--engine-path NAME=PATH is the same for one, and repeatable"
        ),
    ] = ""


class FetchSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of `ams plan` and `ams download`: where `ams up` would look."""

    models_dir: Annotated[
        str, Meta(description="folder that keeps the weights; default $XDG_DATA_HOME/ai-model-server/models")
    ] = ""
    log_dir: Annotated[
        str, Meta(description="folder for logs, one file a model; default $XDG_STATE_HOME/ai-model-server/logs")
    ] = ""
    engine_paths: Annotated[
        str,
        Meta(
            description="programs of engines that are not on PATH, as in vllm=/opt/vllm/bin/vllm, separated by commas; "
            "--engine-path NAME=PATH is the same for one, and repeatable"
        ),
    ] = ""


class ClientSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of commands that ask a gateway: which one, and what they show it. A key itself is in $AMS_API_KEY."""

    url: Annotated[str, Meta(min_length=1, description="URL of the gateway, as `ams up` prints it")] = (
        "http://127.0.0.1:5000"
    )
    api_key_file: Annotated[
        str, Meta(description="file with the API key to send; default: the one in $AMS_API_KEY")
    ] = ""
    ca_file: Annotated[
        str, Meta(description="PEM file of the authority that a gateway's certificate is from; empty: the system's own")
    ] = ""
    client_cert: Annotated[
        str,
        Meta(description="PEM file of a client certificate and those that it is from, where the gateway asks for one"),
    ] = ""
    client_key: Annotated[
        str, Meta(description="PEM file of that certificate's key; empty: it is in the same file")
    ] = ""


class KeysSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of `ams keys`."""

    keys_file: Annotated[
        str, Meta(description="file of API keys; default $XDG_CONFIG_HOME/ai-model-server/keys.json")
    ] = ""


def models_dir(settings: UpSettings | FetchSettings, environment: Mapping[str, str]) -> Path:
    return _folder(settings.models_dir, environment, "XDG_DATA_HOME", ".local/share", "models")


def log_dir(settings: UpSettings | FetchSettings, environment: Mapping[str, str]) -> Path:
    return _folder(settings.log_dir, environment, "XDG_STATE_HOME", ".local/state", "logs")


def usage_file(settings: UpSettings, environment: Mapping[str, str]) -> Path:
    return _folder(settings.usage_file, environment, "XDG_STATE_HOME", ".local/state", "usage.db")


def keys_file(given: str, environment: Mapping[str, str]) -> Path:
    """Where API keys are kept: the file that was given, else where `ams keys` and `ams up` both look."""
    if given:
        return Path(given).expanduser().absolute()
    return _folder("", environment, "XDG_CONFIG_HOME", ".config", "keys.json")


def _folder(given: str, environment: Mapping[str, str], variable: str, fallback: str, name: str) -> Path:
    """The folder that was given, else the one that the XDG base directory specification says."""
    if given:
        return Path(given).expanduser().absolute()
    base = environment.get(variable, "")
    root = Path(base) if base.startswith("/") else Path.home() / fallback
    return root / _APPLICATION / name
