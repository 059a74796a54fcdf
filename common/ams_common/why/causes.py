"""Every cause that an explanation may name, one row each: docs/why.md and the answers come from the rows."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class CauseCode(StrEnum):
    """What delayed a request, or made it fail. A model that isn't ready has a `Reason` instead."""

    # the gateway refused
    KEY_REFUSED = "key-refused"
    BAD_REQUEST = "bad-request"
    MODEL_UNKNOWN = "model-unknown"
    REQUEST_RATE = "request-rate"
    TOKEN_RATE = "token-rate"
    CONCURRENCY = "concurrency"
    BUDGET = "budget"
    QUEUE_FULL = "queue-full"
    # the model wasn't ready
    MODEL_FAILED = "model-failed"
    SUSPENDED = "suspended"
    COLD_START = "cold-start"
    DOWNLOAD = "download"
    SCHEDULING = "scheduling"
    # pods
    POD_ENDED = "pod-ended"
    POD_UNREACHABLE = "pod-unreachable"
    POD_DRAINING = "pod-draining"
    POD_STOPPED = "pod-stopped"
    POD_FAILED = "pod-failed"
    POD_SILENT = "pod-silent"
    ENGINE_RESTARTED = "engine-restarted"
    # other requests
    NEIGHBOUR_PROMPT = "neighbour-prompt"
    NEIGHBOUR_MEDIA = "neighbour-media"
    BATCH_FULL = "batch-full"
    OWN_KEY_BUSY = "own-key-busy"
    DECODERS_BUSY = "decoders-busy"
    SET_ASIDE = "set-aside"
    # the machine
    CPU_THROTTLED = "cpu-throttled"
    CPU_STARVED = "cpu-starved"
    MEMORY_LADDER = "memory-ladder"
    MEMORY_PRESSURE = "memory-pressure"
    GATEWAY_BUSY = "gateway-busy"
    REDIS_SLOW = "redis-slow"
    KEYS_SLOW = "keys-slow"
    # the request itself
    MEDIA_DECODE = "media-decode"
    OWN_MEDIA = "own-media"
    LONG_PROMPT = "long-prompt"
    LONG_ANSWER = "long-answer"
    SLOW_UPLOAD = "slow-upload"
    SLOW_CLIENT = "slow-client"
    CLIENT_LEFT = "client-left"
    TIMED_OUT = "timed-out"
    OVERLOADED = "overloaded"
    INTERNAL = "internal"
    ELSEWHERE = "elsewhere"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class CauseRow:
    """`title` is a heading; `help` says what to do about it."""

    title: str
    help: str


ROWS: Final[dict[CauseCode, CauseRow]] = {
    CauseCode.KEY_REFUSED: CauseRow(
        "The key was refused",
        "Send a key that is valid, has the route's scope and may use the model; `ams keys list` shows keys, and the "
        "audit log has a line for each that was refused.",
    ),
    CauseCode.BAD_REQUEST: CauseRow(
        "The request can't be honoured", "Change the request as its error says; sending it again helps nothing."
    ),
    CauseCode.MODEL_UNKNOWN: CauseRow(
        "No such model or route", "`ams status` lists the models, docs/http.md the routes."
    ),
    CauseCode.REQUEST_RATE: CauseRow(
        "The key sends more requests a minute than it may",
        "Wait as Retry-After says, or raise the key's limit: `ams keys update NAME --requests-per-minute`.",
    ),
    CauseCode.TOKEN_RATE: CauseRow(
        "The key uses more tokens a minute than it may",
        "Lower `max_tokens`, as it is reserved beforehand, or raise the key's limit: "
        "`ams keys update NAME --tokens-per-minute`.",
    ),
    CauseCode.CONCURRENCY: CauseRow(
        "The key has as many requests running as it may",
        "Let one end first, or raise the key's limit: `ams keys update NAME --concurrent`.",
    ),
    CauseCode.BUDGET: CauseRow(
        "The key's tokens of this month are used up",
        "Raise the key's monthly tokens, or wait for the next month; `ams usage` shows what used them.",
    ),
    CauseCode.QUEUE_FULL: CauseRow(
        "The queue is full",
        "More replicas (`spec.autoscaling.maxReplicas`), or more places: `limits.concurrentRequests` and "
        "`limits.queuedRequests`; while a model starts, `--hold-limit` of the gateway.",
    ),
    CauseCode.MODEL_FAILED: CauseRow("The model can't be served", "`ams why MODEL` says what stands in its way."),
    CauseCode.SUSPENDED: CauseRow(
        "The model is suspended", "Set `spec.suspend` to false, or `spec.replicas` to more than 0."
    ),
    CauseCode.COLD_START: CauseRow(
        "The model had to be started",
        "Keep a pod: `spec.autoscaling.minReplicas: 1` on a cluster, a longer `idleSeconds` anywhere.",
    ),
    CauseCode.DOWNLOAD: CauseRow(
        "The weights were downloaded",
        "Fetch them ahead: `cache.prefetch: true`, or `ams download`. A slow one: check the network, `HF_ENDPOINT` and "
        "a mirror near by.",
    ),
    CauseCode.SCHEDULING: CauseRow(
        "The pod waited for a node",
        "Add a node that has what the pod asks for, free one, or lower `spec.resources`; `ams why -k MODEL` says which "
        "node lacked what.",
    ),
    CauseCode.POD_ENDED: CauseRow(
        "The model's process ended while it worked on the request",
        "See why it ended: `ams why MODEL`, or `kubectl logs -c serve deploy/ams-NAME --previous`. Not enough memory "
        "is the usual reason.",
    ),
    CauseCode.POD_UNREACHABLE: CauseRow(
        "A pod couldn't be reached",
        "Check that the pod runs and that a NetworkPolicy lets the gateway reach it. The gateway leaves it out until "
        "it answers again.",
    ),
    CauseCode.POD_DRAINING: CauseRow(
        "The pod was stopping",
        "A rollout or a scale-down was under way; another pod took the request. More replicas, or "
        "`rollout.strategy: Surge`, leave one that answers.",
    ),
    CauseCode.POD_STOPPED: CauseRow(
        "The pod's process stood still",
        "It was stopped from outside (a debugger, a signal, a frozen machine). Look at the node.",
    ),
    CauseCode.POD_FAILED: CauseRow(
        "The model failed on the request", "The pod's log has the cause; please report it if it is ours."
    ),
    CauseCode.POD_SILENT: CauseRow(
        "The pod was slow, and doesn't say why",
        "Its record of the request is gone, or it was built by somebody else. Ask again soon after a slow request.",
    ),
    CauseCode.ENGINE_RESTARTED: CauseRow(
        "The engine of the model was started again",
        "Its own log says what happened before (`kubectl logs -c engine --previous`, or the engine's log beside the "
        "model's). Often memory ran out: lower `limits.contextTokens` or `limits.concurrentRequests`.",
    ),
    CauseCode.NEIGHBOUR_PROMPT: CauseRow(
        "Prompts of others were read",
        "More replicas, or a smaller weight for the key with long prompts (`ams keys update NAME --priority`).",
    ),
    CauseCode.NEIGHBOUR_MEDIA: CauseRow(
        "Media of others were encoded", "More replicas, a GPU, or lower `limits.imagePixels` and `limits.videoFrames`."
    ),
    CauseCode.BATCH_FULL: CauseRow(
        "All places in the batch were taken",
        "More replicas, or raise `limits.concurrentRequests` where memory allows.",
    ),
    CauseCode.OWN_KEY_BUSY: CauseRow(
        "Other requests of the same key were served first",
        "A key's own requests wait for each other: send fewer at once, or add replicas.",
    ),
    CauseCode.DECODERS_BUSY: CauseRow(
        "The threads that decode and prepare were busy with others", "More replicas, or fewer and smaller media."
    ),
    CauseCode.SET_ASIDE: CauseRow(
        "The request made way for other keys and was computed again", "More replicas, or a greater weight for the key."
    ),
    CauseCode.CPU_THROTTLED: CauseRow(
        "The pod's CPU limit held it back",
        "Raise `spec.resources.limits.cpu`, or leave it out; `AMS_THREADS` in `spec.env` should be no higher than it.",
    ),
    CauseCode.CPU_STARVED: CauseRow(
        "Other processes of the machine took the CPU",
        "Raise `spec.resources.requests.cpu`, which reserves it, or move what else runs there; `top` shows it.",
    ),
    CauseCode.MEMORY_LADDER: CauseRow(
        "Memory ran out, and a fallback answered",
        "Lower `limits.contextTokens`, `limits.concurrentRequests` or the size of media, choose a smaller "
        "`quantization`, or give it more memory.",
    ),
    CauseCode.MEMORY_PRESSURE: CauseRow(
        "The machine was short of memory",
        "Pages went to disk and back. Raise the memory of the machine or lower what else runs there; a model server "
        "should not swap.",
    ),
    CauseCode.GATEWAY_BUSY: CauseRow("The gateway had no time", "More gateway replicas, or more CPU for them."),
    CauseCode.REDIS_SLOW: CauseRow(
        "Limits were slow to check", "Redis or the way to it is slow: check its latency and its CPU."
    ),
    CauseCode.KEYS_SLOW: CauseRow(
        "The key was slow to check", "The identity provider's keys were fetched; check the way to it."
    ),
    CauseCode.MEDIA_DECODE: CauseRow(
        "Its own media took long to decode", "Send smaller pictures, shorter audio or fewer frames of video."
    ),
    CauseCode.OWN_MEDIA: CauseRow(
        "Its own media took long to encode",
        "Lower `max_pixels` or `nframes` of the request, or `limits.imagePixels` of the model.",
    ),
    CauseCode.LONG_PROMPT: CauseRow(
        "Its own prompt took long to read", "Send a shorter prompt, or serve the model on a faster device."
    ),
    CauseCode.LONG_ANSWER: CauseRow(
        "Its own answer was long", "Lower `max_tokens`, or serve the model on a faster device or quantized."
    ),
    CauseCode.SLOW_UPLOAD: CauseRow(
        "The client sent its body slowly", "Look at the client's network; smaller media help."
    ),
    CauseCode.SLOW_CLIENT: CauseRow(
        "The client read the answer slowly", "Look at the client and at proxies in between."
    ),
    CauseCode.CLIENT_LEFT: CauseRow("The client left", "Look at the client's own time limit."),
    CauseCode.TIMED_OUT: CauseRow(
        "The answer took longer than allowed", "Raise `limits.requestTimeoutSeconds`, or ask for less."
    ),
    CauseCode.OVERLOADED: CauseRow(
        "The gateway or the pod was overloaded", "More replicas, or larger bounds for bodies and connections."
    ),
    CauseCode.INTERNAL: CauseRow(
        "A fault of AI Model Server", "The log has a traceback under the request's id; please report it."
    ),
    CauseCode.ELSEWHERE: CauseRow("Between gateway and pod", "Look at the network between them, and at sidecars."),
    CauseCode.NOTHING: CauseRow("Nothing delayed it", "Nothing to do."),
}
