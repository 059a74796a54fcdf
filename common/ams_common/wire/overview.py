"""`GET /overview`: what the page at `/` and `ams top` show, for the models that a user may use."""

from typing import Annotated

import msgspec
from msgspec import Meta

from ams_common.lifecycle import Phase
from ams_common.progress import Download


class PodOverview(msgspec.Struct, frozen=True, kw_only=True):
    """One pod that takes requests; null where it didn't tell in time."""

    id: Annotated[str, Meta(description="Id of the pod.")]
    running: Annotated[int | None, Meta(description="Requests in the batch.")] = None
    queued: Annotated[int | None, Meta(description="Requests that wait for a place in it.")] = None
    tokens_per_second: Annotated[float | None, Meta(description="Tokens generated a second, lately.")] = None
    prompt_tokens_per_second: Annotated[float | None, Meta(description="Tokens of prompts read a second, lately.")] = (
        None
    )
    memory_bytes: Annotated[int | None, Meta(description="Resident memory of the process, in bytes.")] = None
    cache_tokens: Annotated[int | None, Meta(description="Tokens in the cache.")] = None
    cache_capacity_tokens: Annotated[int | None, Meta(description="Tokens that the cache can hold.")] = None


class ErrorOverview(msgspec.Struct, frozen=True, kw_only=True):
    """An error that clients of a model got lately."""

    time: Annotated[int, Meta(description="Unix time when it was last sent, in seconds.")]
    code: Annotated[str, Meta(description="Code of the error, as docs/http.md lists them.")]
    message: Annotated[str, Meta(description="What happened; empty where only a pod told it.")] = ""
    help: Annotated[str, Meta(description="What can be done about it.")] = ""
    count: Annotated[int, Meta(description="How often it was sent in the last hour.")] = 1


class ModelOverview(msgspec.Struct, frozen=True, kw_only=True):
    """One model at one moment."""

    name: Annotated[str, Meta(description="Name of the model.")]
    aliases: Annotated[list[str], Meta(description="Its other names.")]
    adapters: Annotated[list[str], Meta(description="Its LoRA adapters, asked for as NAME:ADAPTER.")] = []
    state: Annotated[Phase, Meta(description="How far the model is.")]
    percent: Annotated[float | None, Meta(description="How far this phase is, 0 to 100.")] = None
    eta_seconds: Annotated[float | None, Meta(description="Seconds until this phase ends.")] = None
    message: Annotated[str, Meta(description="A sentence for a person.")] = ""
    reason: Annotated[str, Meta(description="Why it won't get ready, as docs/troubleshooting.md lists reasons.")] = ""
    help: Annotated[str, Meta(description="What can be done about the reason.")] = ""
    download: Annotated[Download | None, Meta(description="Progress of the download, while there is one.")] = None
    modalities: Annotated[
        list[str] | None, Meta(description="What the model takes: `text`, `image`, `audio`, `video`; null if unknown.")
    ] = None
    features: Annotated[list[str] | None, Meta(description="As in /v1/models.")] = None
    max_model_len: Annotated[int | None, Meta(description="Tokens of prompt and answer together.")] = None
    replicas: Annotated[int, Meta(description="Pods that should run.")] = 0
    ready_replicas: Annotated[int, Meta(description="Pods that take requests.")] = 0
    in_flight: Annotated[int, Meta(description="Requests of this gateway at a pod.")] = 0
    held: Annotated[int, Meta(description="Requests of this gateway that wait for the model to get ready.")] = 0
    queued: Annotated[int, Meta(description="Requests that wait in pods, of all gateways.")] = 0
    tokens_per_second: Annotated[float, Meta(description="Tokens that its pods generated a second, lately.")] = 0.0
    memory_bytes: Annotated[int | None, Meta(description="Resident memory of its pods, in bytes.")] = None
    pods: Annotated[list[PodOverview], Meta(description="The pods that take requests.")]
    errors: Annotated[list[ErrorOverview], Meta(description="Errors of the last hour, the newest first.")]
    controllable: Annotated[bool, Meta(description="Whether this user may start and stop the model here.")] = False


class UserOverview(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks."""

    name: Annotated[str, Meta(description="Name of the key; empty where no keys are configured.")] = ""
    scopes: Annotated[list[str], Meta(description="What the key may do: `generate`, `admin`, `metrics`.")]


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """All models that a user may use, at one moment; an event of `GET /overview` as a stream."""

    time: Annotated[float, Meta(description="Unix time, in seconds.")]
    version: Annotated[str, Meta(description="Version of the gateway.")]
    where: Annotated[str, Meta(description="`local` for `ams up`, `cluster` on Kubernetes, `static` otherwise.")]
    user: Annotated[UserOverview, Meta(description="Who asks.")]
    models: Annotated[list[ModelOverview], Meta(description="The models, sorted by name.")]
