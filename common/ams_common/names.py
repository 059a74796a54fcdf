"""Names: API group, labels, headers, and how a route's model name meets a resource's name."""

from typing import Final

GROUP: Final = "aimodelserver.io"
VERSION: Final = "v1alpha1"
API_VERSION: Final = "aimodelserver.io/v1alpha1"
KIND: Final = "ModelDeployment"
PLURAL = "modeldeployments"
SHORT_NAME = "mdep"

HEADER_REQUEST_ID = "X-Request-Id"
HEADER_MODEL = "X-AMS-Model"
HEADER_POD = "X-AMS-Pod"
HEADER_QUEUE_SECONDS = "X-AMS-Queue-Seconds"
HEADER_IGNORED_FIELDS = "X-AMS-Ignored-Fields"
HEADER_FINISH_REASON = "X-AMS-Finish-Reason"  # of a transcript, whose text alone can't tell it
HEADER_IMAGE_SIZE = "X-AMS-Image-Size"  # of each image, width x height as the model saw it: "1036x784, 56x56"
HEADER_ADAPTER = "X-AMS-Adapter"  # from gateway to pod: the adapter that a request asks for; empty for none
HEADER_KEY_ID = "X-AMS-Key-Id"  # from gateway to pod: whose request it is, by an id that says nothing of them
HEADER_WEIGHT = "X-AMS-Weight"  # from gateway to pod: their weight where users share a busy model, 1 to 1000
HEADER_ANSWER_CACHE = "X-AMS-Cache"  # "hit" or "miss", of models whose answers are kept
HEADER_ANSWER_VERSION = "X-AMS-Answer-Version"  # from pod to gateway: changes with all that changes answers
HEADER_USAGE = "X-AMS-Usage"  # from pod to gateway: ams_common.request_usage.RequestUsage
USAGE_COMMENT = b": usage "  # the same on a stream, as its last SSE comment line


def resource_name(name: str) -> str:
    """The resource's spelling of a model name in a route or request: `qwen_vl` and `Qwen-VL` are `qwen-vl`."""
    return name.replace("_", "-").lower()


def route_name(name: str) -> str:
    """The older server's spelling, used in routes: `qwen-vl` is `qwen_vl`."""
    return name.replace("-", "_")


def child_name(name: str) -> str:
    """The name of every object made for a ModelDeployment."""
    return f"ams-{name}"
