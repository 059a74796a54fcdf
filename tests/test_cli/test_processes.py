"""Starting processes: by a fork server that speaks the protocol, that misbehaves, or not at all."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from ams_cli.processes.forkserver import ForkServerClient
from ams_cli.processes.launcher import PROGRAMS as REAL
from ams_cli.processes.launcher import Programs, QuickLauncher
from ams_cli.processes.process import Command, Exit, LaunchError
from ams_cli.processes.subprocesses import Subprocesses
from test_cli.local_fleet import FAKE_POD, POD, PROGRAMS, gone, resource, running


@asynccontextmanager
async def launching(folder: Path, programs: Programs = PROGRAMS) -> AsyncIterator[QuickLauncher]:
    launcher = QuickLauncher(programs, str(folder / "forkserver.log"))
    launcher.warm()
    try:
        yield launcher
    finally:
        await launcher.close()


def serve(folder: Path, name: str = "m", **variables: str) -> Command:
    told = {"AMS_NAME": name, "AMS_UDS": str(folder / f"{name}.sock"), "AMS_MODELS_DIR": str(folder)}
    return Command(("serve",), told | variables, str(folder / f"{name}.log"))


async def test_a_subprocess_ends_by_a_code_or_a_signal(tmp_path: Path) -> None:
    pods = Subprocesses(POD)
    process = await pods.start(serve(tmp_path))
    assert process.running
    process.kill()
    assert await process.wait() == Exit(signal=signal.SIGKILL)
    assert not process.running
    process.kill()  # nothing to do
    failing = await pods.start(serve(tmp_path, AMS_TERMINATION_LOG=str(tmp_path / "t"), FAKE_SERVE="fail"))
    assert await failing.wait() == Exit(code=1)


def test_exits_in_words() -> None:
    assert str(Exit(code=3)) == "the process exited with status 3"
    assert str(Exit(signal=9)) == "the process was killed (SIGKILL), often for lack of memory"
    assert str(Exit(signal=63)) == "the process was killed (signal 63)"


async def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=r"^/no/such can't be started: No such file or directory$"):
        await Subprocesses(("/no/such",)).start(serve(tmp_path))


async def test_the_fork_server_starts_signals_and_ends_children(tmp_path: Path) -> None:
    async with launching(tmp_path) as launcher:
        one, two = await asyncio.gather(launcher.start(serve(tmp_path, "a")), launcher.start(serve(tmp_path, "b")))
        assert one.pid != two.pid
        one.kill()
        assert await one.wait() == Exit(signal=signal.SIGKILL)
        assert two.running
    assert await gone([one.pid, two.pid])
    assert not two.running


async def test_models_are_served_out_of_it(tmp_path: Path) -> None:
    async with launching(tmp_path) as launcher, running(tmp_path, resource(), serve=launcher) as local:
        await local.demand()
        answer = await local.ask()
        assert answer["environment"]["FAKE_FORKED"] == "1"
        os.kill(answer["pid"], signal.SIGKILL)
        await local.until(lambda: not local.fleet.backends(local.fleet.models()[0]))
        await local.demand()
        assert (await local.ask())["pid"] != answer["pid"]


async def test_a_dead_fork_server_takes_its_children_along_and_is_started_anew(tmp_path: Path) -> None:
    async with launching(tmp_path) as launcher:
        first = await launcher.start(serve(tmp_path, "a"))
        server = launcher._server
        assert server is not None
        server.process.kill()
        assert await first.wait() == Exit(signal=signal.SIGKILL)
        assert await gone([first.pid])
        second = await launcher.start(serve(tmp_path, "b"))
        assert second.running
        assert launcher._server is not server


@pytest.mark.parametrize("way", ["die", "refuse"])
async def test_without_a_working_fork_server_subprocesses_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setenv("FAKE_FORKSERVER", way)
    async with launching(tmp_path) as launcher:
        process = await launcher.start(serve(tmp_path))
        assert process.running
        await process.stop(5)


async def test_variables_of_the_manifest_need_a_process_that_imports_anew(tmp_path: Path) -> None:
    async with (
        launching(tmp_path) as launcher,
        running(tmp_path, resource(env={"OMP_NUM_THREADS": "1"}), serve=launcher) as local,
    ):
        await local.demand()
        environment = (await local.ask())["environment"]
        assert environment["OMP_NUM_THREADS"] == "1"
        assert "FAKE_FORKED" not in environment


async def test_a_fork_server_that_is_gone_says_so(tmp_path: Path) -> None:
    server = await ForkServerClient.launch((sys.executable, FAKE_POD, "forkserver"), str(tmp_path / "log"))
    await server.ready()
    await server.close()
    with pytest.raises(LaunchError, match="the fork server is gone"):
        await server.start(serve(tmp_path))


async def test_the_real_fork_server_speaks_the_protocol(tmp_path: Path) -> None:
    async with launching(tmp_path, REAL) as launcher:
        termination = tmp_path / "termination"
        command = Command(
            ("serve",),
            {
                "AMS_NAME": "m",
                "AMS_SOURCE": f"file://{tmp_path}/absent",
                "AMS_MODELS_DIR": str(tmp_path),
                "AMS_UDS": str(tmp_path / "m.sock"),
                "AMS_TERMINATION_LOG": str(termination),
            },
            str(tmp_path / "m.log"),
        )
        process = await launcher.start(command)
        server = launcher._server
        assert server is not None
        assert not server.gone
        async with asyncio.timeout(60):
            end = await process.wait()
        assert end.code not in (0, None), (tmp_path / "m.log").read_text()
        assert set(json.loads(termination.read_text())) >= {"reason", "message"}
    assert await gone([server.process.pid])
