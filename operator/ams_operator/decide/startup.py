"""How long a pod took from step to step until it answered, by what the kubelet wrote down. Pure; whole seconds."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final, Literal

from ams_kube.objects import ContainerStatus, Pod

from ams_operator.decide.children.pod import DOWNLOAD, SERVE

StartupStep = Literal["schedule", "pull", "download", "load", "total"]
"""`schedule`: until a node was found. `pull`: until the first container ran: sandbox, volume and image. `download`: the
weights, or the look whether they are there. `load`: from the server's start until it answers. `total`: all of it."""

STEPS: Final[tuple[StartupStep, ...]] = ("schedule", "pull", "download", "load", "total")


def startup_of(pod: Pod) -> Mapping[StartupStep, float] | None:
    """Seconds by step of a pod that answers; None of one that doesn't. A step whose times aren't known is left out.

    A container that was started again counts from its last start.
    """
    ready = pod.condition("Ready")
    if ready is None or ready.status != "True":
        return None
    created, end = _time(pod.metadata.creation_timestamp), _time(ready.last_transition_time)
    placed = pod.condition("PodScheduled")
    scheduled = _time(placed.last_transition_time) if placed is not None else None
    download_began, download_ended = _span(pod.status.init_container_statuses, DOWNLOAD)
    serve_began, _ = _span(pod.status.container_statuses, SERVE)
    spans: dict[StartupStep, tuple[float | None, float | None]] = {
        "schedule": (created, scheduled),
        "pull": (scheduled, download_began if download_began is not None else serve_began),
        "download": (download_began, download_ended),
        "load": (serve_began, end),
        "total": (created, end),
    }
    return {
        step: max(0.0, last - first)
        for step, (first, last) in spans.items()
        if first is not None and last is not None
    }  # fmt: skip


def ready_since(pod: Pod) -> float:
    """Unix time; 0 for a pod that isn't ready."""
    ready = pod.condition("Ready")
    if ready is None or ready.status != "True":
        return 0.0
    return _time(ready.last_transition_time) or 0.0


def _span(statuses: list[ContainerStatus], name: str) -> tuple[float | None, float | None]:
    for status in statuses:
        if status.name == name:
            if (ended := status.state.terminated) is not None:
                return _time(ended.started_at), _time(ended.finished_at)
            if (running := status.state.running) is not None:
                return _time(running.started_at), None
    return None, None


def _time(text: str | None) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp() if text else None
    except ValueError:
        return None
