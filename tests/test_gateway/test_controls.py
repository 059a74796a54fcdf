"""Starting and stopping models over HTTP, and the log of their start-up."""

from typing import Any

import pytest
from test_gateway.conftest import Running, Start
from test_gateway.gateway_fakes import FakeControls, FakeRegistry

ASKED = {"Content-Type": "application/json"}


async def post(running: Running, path: str, **headers: str) -> tuple[int, Any]:
    async with running.client.post(running.url + path, headers=ASKED | headers) as response:
        return response.status, await response.json()


async def test_where_the_server_runs_its_models(start: Start, registry: FakeRegistry) -> None:
    registry.add("qwen-vl", aliases=("org/vl",))
    registry.controls = controls = FakeControls()
    running = await start(registry)
    started = {"model": "qwen-vl", "state": "starting", "message": ""}
    assert await post(running, "/admin/models/qwen_vl/start") == (200, started)
    assert await post(running, "/admin/models/org/vl/start") == (200, started)
    stopped = {"model": "qwen-vl", "state": "draining", "message": "stopped by hand"}
    assert await post(running, "/admin/models/org%2Fvl/stop") == (200, stopped)
    assert controls.did == [("start", "qwen-vl"), ("start", "qwen-vl"), ("stop", "qwen-vl")]
    async with running.client.get(running.url + "/admin/models/qwen-vl/logs") as response:
        assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert await response.text() == "qwen-vl says <b>hi</b>\n"
    async with running.client.get(running.url + "/overview") as response:
        assert (await response.json())["models"][0]["controllable"] is True
    assert (await post(running, "/admin/models/none/stop"))[1]["details"]["code"] == "model_not_found"
    status, error = await post(running, "/admin/models//start")
    assert (status, error["details"]["code"]) == (404, "not_found")
    async with running.client.get(running.url + "/admin/models/qwen-vl/start") as response:
        assert (response.status, response.headers["Allow"]) == (405, "POST")


async def test_other_sites_start_nothing(start: Start, registry: FakeRegistry) -> None:
    registry.add("m")
    registry.controls = controls = FakeControls()
    running = await start(registry)
    for headers in ({"Content-Type": "text/plain"}, {"Content-Type": "multipart/form-data"}):
        assert (await post(running, "/admin/models/m/start", **headers))[0] == 415
    status, _ = await post(running, "/admin/models/m/stop", Origin="https://evil.example")
    assert status == 403
    assert controls.did == []


@pytest.mark.parametrize(
    ("method", "verb", "command"),
    [
        ("POST", "start", """kubectl patch mdep m -n ml --type=merge -p '{"spec":{"suspend":false}}'"""),
        ("POST", "stop", """kubectl patch mdep m -n ml --type=merge -p '{"spec":{"suspend":true}}'"""),
        ("GET", "logs", "kubectl logs deployment/ams-m -n ml --all-containers --tail=500"),
    ],
)
async def test_where_something_else_does(
    start: Start, registry: FakeRegistry, method: str, verb: str, command: str
) -> None:
    registry.add("m", key="ml/m")
    running = await start(registry)
    for where in ("static", "cluster"):
        registry.where = where
        async with running.client.request(method, running.url + f"/admin/models/m/{verb}", headers=ASKED) as response:
            error = await response.json()
            assert (response.status, error["details"]["code"]) == (409, "not_controllable")
            assert (command in error["error"]) == (where == "cluster")
    assert error["details"]["command"] == command
