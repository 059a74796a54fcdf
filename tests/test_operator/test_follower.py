"""An operator that waits for the Lease sees what changes, works on none of it, and isn't behind."""

import asyncio
from pathlib import Path

from ams_kube.client import Client
from kube_cluster import ControlPlane
from models import create, model, until_children
from operator_process import OperatorProcess


async def test_one_that_waits_for_the_lease_is_not_behind(
    kube: Client, home: str, operator: OperatorProcess, control_plane: ControlPlane, tmp_path: Path
) -> None:
    follower = OperatorProcess(control_plane, tmp_path / "log", home, identity="follower")
    follower.start()
    try:
        await asyncio.to_thread(follower.until_logged, "the cluster is known")
        await create(kube, home, "tiny", model())
        await until_children(kube, home, "tiny")
        await asyncio.sleep(1.5)
        leading, waiting = [await asyncio.to_thread(each.metrics) for each in (operator, follower)]
        assert (leading["ams_operator_leads"], waiting["ams_operator_leads"]) == (1, 0)
        assert waiting[f'ams_operator_desired_replicas{{model="{home}/tiny"}}'] == 1  # it has seen it
        assert waiting["ams_operator_queue_depth"] == waiting["ams_operator_queue_age_seconds"] == 0
    finally:
        follower.kill()
