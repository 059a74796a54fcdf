"""Where handlers find what belongs to the application and to a request."""

from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from ams_pod.serve.pod import ModelPod

POD: "web.AppKey[ModelPod]" = web.AppKey("pod")
REQUEST_ID: "web.RequestKey[str]" = web.RequestKey("request_id", str)
