"""Where handlers find what belongs to the application and to a request."""

from typing import TYPE_CHECKING

from aiohttp import web

from ams_pod.serve.request_meter import RequestMeter
from ams_pod.serve.tracks import RequestTrack
from ams_pod.shares import Share

if TYPE_CHECKING:
    from ams_pod.serve.pod import ModelPod

POD: "web.AppKey[ModelPod]" = web.AppKey("pod")
REQUEST_ID: "web.RequestKey[str]" = web.RequestKey("request_id", str)
SHARE: "web.RequestKey[Share]" = web.RequestKey("share", Share)
TRACK: "web.RequestKey[RequestTrack]" = web.RequestKey("track", RequestTrack)
METER: "web.RequestKey[RequestMeter]" = web.RequestKey("meter", RequestMeter)
