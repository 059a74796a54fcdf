"""How long pods took to start, by what the kubelet says; each is counted once."""

from typing import Any

import msgspec
import pytest
from ams_kube.objects import Pod
from ams_operator.decide.startup import startup_of
from ams_operator.metrics import Metrics
from ams_operator.watch.startups import StartupWatch


def pod(ready: str | None = "2099-01-01T00:02:10Z", **status: Any) -> Pod:
    conditions = [{"type": "PodScheduled", "status": "True", "lastTransitionTime": "2099-01-01T00:00:03Z"}]
    if ready is not None:
        conditions.append({"type": "Ready", "status": "True", "lastTransitionTime": ready})
    document = {
        "metadata": {
            "name": "ams-tiny-1",
            "namespace": "models",
            "uid": "p",
            "creationTimestamp": "2099-01-01T00:00:00Z",
            "labels": {"aimodelserver.io/model": "tiny"},
        },
        "status": {
            "conditions": conditions,
            "initContainerStatuses": [
                {
                    "name": "download",
                    "state": {
                        "terminated": {"startedAt": "2099-01-01T00:00:10Z", "finishedAt": "2099-01-01T00:01:50Z"}
                    },
                }
            ],
            "containerStatuses": [
                {"name": "serve", "ready": True, "state": {"running": {"startedAt": "2099-01-01T00:01:52Z"}}}
            ],
            **status,
        },
    }
    return msgspec.convert(document, Pod)


def test_each_step_of_a_start() -> None:
    assert startup_of(pod()) == {"schedule": 3, "pull": 7, "download": 100, "load": 18, "total": 130}


def test_nothing_is_told_before_it_answers() -> None:
    assert startup_of(pod(ready=None)) is None


@pytest.mark.parametrize("times", [{}, {"startedAt": "soon", "finishedAt": None}])
def test_steps_without_times_are_left_out(times: dict[str, Any]) -> None:
    statuses = [{"name": "download", "state": {"terminated": times}}]
    assert startup_of(pod(initContainerStatuses=statuses)) == {"schedule": 3, "pull": 109, "load": 18, "total": 130}


def starts(metrics: Metrics) -> float | None:
    return metrics._registry.get_sample_value("ams_operator_startup_seconds_count", {"phase": "total"})


def test_a_start_is_counted_once_and_by_the_leader() -> None:
    metrics, leads = Metrics(), [False]
    watch = StartupWatch(metrics, lambda: leads[0])
    watch.take(pod(ready=None))
    watch.take(pod())
    assert starts(metrics) == 0  # the series is there, so that a first start is an increase
    other = StartupWatch(metrics, lambda: True)
    other.take(pod(ready=None))
    other.take(pod())
    other.take(pod())
    assert starts(metrics) == 1
    text = metrics.render().decode()
    assert 'ams_operator_last_startup_seconds{model="models/tiny",phase="download"} 100.0' in text
    metrics.forget("models/tiny")
    assert "models/tiny" not in metrics.render().decode()


def test_pods_that_were_ready_before_are_no_news() -> None:
    metrics = Metrics()
    StartupWatch(metrics, lambda: True).take(pod(ready="2020-01-01T00:00:00Z"))
    assert starts(metrics) == 0
