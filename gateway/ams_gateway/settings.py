"""What an operator can set on the gateway: each field is a flag and an AMS_* variable (see ams_common.options)."""

import os
from typing import Annotated, Literal

import msgspec
from ams_common.options import OptionError
from ams_common.tracing_settings import OtlpEndpoint, TraceSampleRatio
from msgspec import Meta


class HttpSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How requests are taken: settings of `ams-gateway`, and of `ams up`, which runs a gateway too."""

    host: Annotated[str, Meta(description="address to listen on")] = "0.0.0.0"
    port: Annotated[int, Meta(ge=0, le=65535, description="port to listen on; 0 picks a free one")] = 5000
    allowed_hosts: Annotated[
        str,
        Meta(
            description="names that clients may use for this server, separated by commas, as in api.example.com or "
            "*.example.com, * for any; addresses, localhost and --host are always taken; empty: any name, but on "
            "loopback only those"
        ),
    ] = ""
    allowed_origins: Annotated[
        str,
        Meta(
            description="web pages that may use this server, separated by commas, as in https://app.example.com, * for "
            "any; they get CORS headers; empty: no CORS, and on loopback pages of other origins are refused"
        ),
    ] = ""
    keys_file: Annotated[
        str,
        Meta(
            description="file of the API keys that `ams keys` makes, read again when it changes; empty: no keys, and "
            "everybody who reaches the port may use every model"
        ),
    ] = ""
    allow_anonymous: Annotated[
        bool,
        Meta(
            description="let requests without a key generate; without any keys, let everybody do everything, also "
            "where --host is more than this machine"
        ),
    ] = False
    audit_log: Annotated[
        str,
        Meta(description="file for a line of JSON for each admin action and each refused key; empty: stderr"),
    ] = ""
    metrics_port: Annotated[
        int, Meta(ge=0, le=65535, description="port of GET /metrics alone; 0 serves it on the main port")
    ] = 0
    hold_seconds: Annotated[
        float, Meta(ge=0, description="seconds that a request without a stream waits for a model that isn't ready")
    ] = 120.0
    hold_limit: Annotated[
        int, Meta(ge=0, description="requests per model that may wait at once; further ones get 429")
    ] = 100
    max_body_bytes: Annotated[
        int,
        Meta(
            ge=1024,
            description="upper limit of a request body, in bytes; a model's own limit may be lower, never higher",
        ),
    ] = 64 << 20
    body_timeout_seconds: Annotated[
        float, Meta(gt=0, description="seconds that a client may pause while sending its body; then it gets 408")
    ] = 30.0
    body_total_seconds: Annotated[
        float, Meta(gt=0, description="seconds that a client may take for its whole body; then it gets 408")
    ] = 600.0
    body_min_bytes_per_second: Annotated[
        float,
        Meta(
            ge=0,
            description="bytes a second that a client must send of its body, over each --body-timeout-seconds; "
            "a slower one gets 408",
        ),
    ] = 1024.0
    body_memory_bytes: Annotated[
        int,
        Meta(
            ge=1 << 20,
            description="memory that the unfinished bodies of all requests may take, in bytes; past it 503 overloaded",
        ),
    ] = 64 << 20
    spool_bytes: Annotated[
        int,
        Meta(ge=1 << 20, description="bytes of large bodies that --spool-dir may hold at once; past it 503 overloaded"),
    ] = 1 << 30
    keepalive_seconds: Annotated[
        float, Meta(gt=0, description="seconds that an idle client connection is kept open")
    ] = 75.0
    grace_seconds: Annotated[
        float, Meta(ge=0, description="seconds that running requests get to finish when the gateway stops")
    ] = 30.0
    jwt_file: Annotated[
        str,
        Meta(
            description="JSON file of the identity providers whose signed tokens (JWT) are taken, and of what their "
            "claims allow; read again when it changes; see access.md"
        ),
    ] = ""
    tls_cert: Annotated[
        str,
        Meta(
            description="PEM file of the certificate and those that it is from: the gateway then speaks HTTPS; read "
            "again when it is renewed"
        ),
    ] = ""
    tls_key: Annotated[str, Meta(description="PEM file of --tls-cert's key; empty: it is in the same file")] = ""
    tls_client_ca: Annotated[
        str,
        Meta(
            description="PEM file of the authorities whose client certificates are taken; every client then needs one"
        ),
    ] = ""
    spool_dir: Annotated[str, Meta(description="folder for large request bodies; empty: the system's own")] = ""
    expose_pod: Annotated[bool, Meta(description="name the answering pod in the header X-AMS-Pod")] = False
    admin_paths: Annotated[
        bool,
        Meta(description="tell whole paths in answers of /admin, where there are only the names of files otherwise"),
    ] = False
    redis_url: Annotated[
        str,
        Meta(
            description="Redis by which gateways share limits, usage, kept answers and responses: "
            "redis://HOST:PORT/DB, rediss://HOST:PORT/DB or unix:///PATH; empty: this gateway keeps them alone"
        ),
    ] = ""
    redis_password: Annotated[str, Meta(description="password of --redis-url; better given by the variable")] = ""
    stored_responses_bytes: Annotated[
        int,
        Meta(
            ge=0,
            description="memory for responses of /v1/responses that others may go on from, in bytes; 0 keeps none",
        ),
    ] = 64 << 20
    stored_responses_seconds: Annotated[
        float, Meta(gt=0, le=366 * 86400, description="seconds that such a response is kept after its last use")
    ] = 86400.0
    usage_file: Annotated[
        str,
        Meta(
            description="SQLite file that keeps what each key has used, with Redis only until Redis has it; empty: "
            "memory"
        ),
    ] = ""
    usage_days: Annotated[int, Meta(ge=1, le=4000, description="days that the use of keys is kept")] = 400
    otlp_endpoint: OtlpEndpoint = ""
    trace_sample_ratio: TraceSampleRatio = 1.0
    log_format: Annotated[
        Literal["console", "json"], Meta(description="human-readable lines, or one JSON object per line")
    ] = "console"
    debug: Annotated[bool, Meta(description="enable debug logging")] = False


class GatewaySettings(HttpSettings, frozen=True, kw_only=True):
    """Settings of `ams-gateway`; `ams up` makes them of its own."""

    processes: Annotated[
        int,
        Meta(
            ge=1,
            le=64,
            description="processes that share the port, at most one a core; several need --redis-url, by which they "
            "share limits and usage, and --metrics-port",
        ),
    ] = 1
    kubernetes: Annotated[bool, Meta(description="serve the ModelDeployments of a cluster, instead of --backend")] = (
        False
    )
    namespaces: Annotated[
        str, Meta(description="with --kubernetes: namespaces to serve, separated by commas; empty: all")
    ] = ""
    keys_secret: Annotated[
        str,
        Meta(
            description="with --kubernetes: the Secret with the API keys in its entry keys.json, as namespace/name, "
            "followed through the API server"
        ),
    ] = ""
    confine_names: Annotated[
        bool,
        Meta(
            description="with --kubernetes: models are called <namespace>.<name> only, and aliases likewise, so that no"
            " namespace can take a name from another"
        ),
    ] = False


def check_folder(settings: HttpSettings) -> None:
    """OptionError for a folder for large bodies that can't be written to."""
    folder = settings.spool_dir
    if folder and not os.access(folder, os.W_OK | os.X_OK):
        raise OptionError(f"--spool-dir={folder!r}: expected a folder that can be written to")


def listed(text: str) -> list[str]:
    """The items of a setting that is separated by commas."""
    return [item.strip() for item in text.split(",") if item.strip()]
