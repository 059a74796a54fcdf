"""Counts how long pods took to start: each once, when it gets ready, and by the operator that leads."""

import time
from collections.abc import Callable

from ams_kube.objects import Pod

from ams_operator.decide.children.kinds import model_key
from ams_operator.decide.startup import ready_since, startup_of
from ams_operator.metrics import Metrics

_CLOCK_SECONDS = 2.0  # the kubelet's times are whole seconds, of another clock


class StartupWatch:
    """`leads` says whether this operator does: others see the same pods."""

    def __init__(self, metrics: Metrics, leads: Callable[[], bool]) -> None:
        self._metrics = metrics
        self._leads = leads
        self._began = time.time() - _CLOCK_SECONDS
        self._counted: dict[str, str] = {}  # pod's key → uid

    def take(self, pod: Pod) -> None:
        """A pod changed. One that was ready before this operator began was counted by another, or never."""
        since = ready_since(pod)
        if not since or self._counted.get(pod.metadata.key) == pod.metadata.uid:
            return
        self._counted[pod.metadata.key] = pod.metadata.uid
        if since >= self._began and self._leads() and (steps := startup_of(pod)) is not None:
            self._metrics.started(model_key(pod.metadata), steps)

    def forget(self, key: str) -> None:
        self._counted.pop(key, None)
