"""`ams why -k` against a real API server: what it says of models that no pod serves, and which node lacks what."""

import asyncio
import json
import os
import re
import secrets
import subprocess
import sys
import urllib.request
from typing import Any

import pytest
from ams_common.why.story import OperatorDecisions, Why
from ams_kube.client import Client
from ams_kube.kinds import Kind
from kube_cluster import Anything, ControlPlane
from models import BACK_OFF, container, create, ended, model, pod_of, report, until_condition
from msgspec import json as codec
from operator_process import OperatorProcess
from test_why_not_ready import CASES

NODES = Kind("v1", "Node", "nodes", Anything)
PODS = Kind("v1", "Pod", "pods", Anything)
GIVEN = ("gated", "bad-token", "disk-full", "image", "secret", "oom", "crash-loop", "source")


async def ams_why(plane: ControlPlane, name: str, namespace: str) -> Why:
    """The command, as people run it."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ams_cli.main", "why", name, "-k", "-n", namespace, "--json"),
        env=os.environ | {"KUBECONFIG": str(plane.kubeconfig)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return codec.decode(out, type=Why)


@pytest.mark.parametrize("case", GIVEN)
async def test_the_reason_is_the_first_cause(
    control_plane: ControlPlane, kube: Client, home: str, operator: OperatorProcess, case: str
) -> None:
    status, kind, value, reason, words = CASES[case]
    name = f"why-{case}"
    await create(kube, home, name, model())
    await report(kube, await pod_of(kube, home, name), **status)
    await until_condition(kube, home, name, kind, value, reason, words)
    found = await ams_why(control_plane, name, home)
    assert found.causes[0].code == reason
    assert words in found.causes[0].sentence
    assert found.causes[0].help
    assert found.notes == ["no gateway of AI Model Server is installed"]
    assert any(reason in each for each in found.model.events)  # type: ignore[union-attr]


async def test_which_node_lacks_what(
    control_plane: ControlPlane, kube: Client, home: str, operator: OperatorProcess
) -> None:
    with control_plane.without_scheduler():
        await _lacking(control_plane, kube, home)


async def _lacking(control_plane: ControlPlane, kube: Client, home: str) -> None:
    mark = secrets.token_hex(3)
    small, tainted = f"small-{mark}", f"tainted-{mark}"
    await kube.create(NODES, None, {"metadata": {"name": small, "labels": {"why": mark}}})
    taint = {"key": "team", "value": "other", "effect": "NoSchedule"}
    await kube.create(
        NODES, None, {"metadata": {"name": tainted, "labels": {"why": mark}}, "spec": {"taints": [taint]}}
    )
    try:
        for node, memory in ((small, "4Gi"), (tainted, "64Gi")):
            body = {"status": {"allocatable": {"memory": memory, "cpu": "8"}, "capacity": {"memory": memory}}}
            await kube.request(
                "PATCH", NODES.path(None, node, "status"), body=body, content_type="application/merge-patch+json"
            )
        resources = {"limits": {"memory": "16Gi", "cpu": "2"}}
        await create(kube, home, "nowhere", model(nodeSelector={"why": mark}, resources=resources))
        pod = await pod_of(kube, home, "nowhere")
        message = "0/2 nodes are available: 1 Insufficient memory, 1 node(s) had untolerated taint {team: other}."
        condition = {
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
            "lastTransitionTime": "2024-01-01T00:00:00Z",
        }  # fmt: skip
        await kube.request(
            "PATCH",
            PODS.path(home, pod.metadata.name, "status"),
            body={"status": {"conditions": [condition]}},
            content_type="application/strategic-merge-patch+json",
        )
        await until_condition(kube, home, "nowhere", "Available", "False", "Unschedulable", "Insufficient memory")
        found = await ams_why(control_plane, "nowhere", home)
        cause = found.causes[0]
        assert cause.code == "Unschedulable"
        evidence = "\n".join(cause.evidence)
        assert "the scheduler: 1 Insufficient memory" in evidence
        assert f"node {small}: 16.0 GiB of memory asked for, 4.0 GiB free of 4.0 GiB" in evidence
        assert f"node {tainted}: its taint team=other:NoSchedule isn't tolerated" in evidence
    finally:
        for node in (small, tainted):
            await kube.delete(NODES, None, node)


async def test_what_the_operator_decided(kube: Client, home: str, operator: OperatorProcess) -> None:
    await create(kube, home, "decided", model())
    last = ended(json.dumps({"reason": "GatedModel", "message": "acme/x is gated."}))
    status: dict[str, Any] = {"initContainerStatuses": [container("download", waiting=BACK_OFF, restarts=2, last=last)]}
    await report(kube, await pod_of(kube, home, "decided"), **status)
    await until_condition(kube, home, "decided", "PreflightPassed", "False", "GatedModel")
    port = re.search(r"metrics on port (\d+)", operator.text())
    assert port is not None
    url = f"http://127.0.0.1:{port[1]}/internal/decisions?model={home}/decided"

    def read() -> OperatorDecisions:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return codec.decode(answer.read(), type=OperatorDecisions)

    found = await asyncio.to_thread(read)
    sentences = [each.sentence for each in found.decisions]
    assert any("applies Deployment" in each for each in sentences)
    async with asyncio.timeout(10):
        while not any(each.startswith("GatedModel: ") for each in sentences):
            await asyncio.sleep(0.1)
            sentences = [each.sentence for each in (await asyncio.to_thread(read)).decisions]


async def test_a_name_that_nobody_has(control_plane: ControlPlane, home: str, operator: OperatorProcess) -> None:
    with pytest.raises(AssertionError, match="No ModelDeployment 'nonesuch'"):
        await ams_why(control_plane, "nonesuch", home)
