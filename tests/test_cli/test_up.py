"""`ams up` as a user meets it: a process with a terminal or without, requests, Ctrl-C, and mistakes."""

import asyncio
import os
import pty
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from ams_cli import main as command
from ams_cli.main import main
from test_cli.local_fleet import gone
from test_cli.up_process import manifest, up


async def test_a_request_starts_the_model_and_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    async with up(tmp_path) as server:
        await server.announced()
        assert (await server.get("/health"))[1]["models"] == {"total": 1, "ready": 0}
        status, answer = await server.post("/generate/m", {"prompt": "hi"})
        assert (status, answer["response"]) == (200, "POST /generate")
        assert answer["environment"]["FAKE_FORKED"] == "1"  # out of the fork server
        assert (await server.get("/health"))[1]["models"] == {"total": 1, "ready": 1}
        family = server.family()
        assert answer["pid"] in family
        assert len(family) == 2
        assert len(os.listdir(server.temporary)) == 1  # the private folder with the socket
        assert await server.interrupt() == 0
        assert await gone(family)
        assert os.listdir(server.temporary) == []
    assert server.lines[-1] == "stopped; nothing is left running"
    assert any("curl -s http://127.0.0.1:" in line for line in server.lines)
    assert any(" 200 POST /generate/m " in line for line in server.lines)
    assert " 200 POST /generate/m " in (tmp_path / "logs" / "gateway.log").read_text()
    assert (tmp_path / "logs" / "m.log").read_text() == "serving m\n"


async def test_settings_of_the_gateway_and_of_all_models(tmp_path: Path) -> None:
    flags = ("--hold-seconds", "0.2", "--max-body-bytes", "2048", "--expose-pod", "--log-format", "json")
    flags = (*flags, "--media-url-hosts", "a.example,b.example", "--temp-dir", str(tmp_path / "temp"))
    slow = "autoscaling: {}, env: [{name: FAKE_SERVE, value: slow}]"
    text = manifest() + "---\n" + manifest("own", "autoscaling: {}, limits: {mediaUrlHosts: [c.example]}")
    async with up(tmp_path, *flags, text=text + "---\n" + manifest("slow", slow)) as server:
        await server.announced()
        for name, hosts in (("m", "a.example,b.example"), ("own", "c.example")):
            while (await server.post(f"/generate/{name}", {"prompt": "hi"}))[0] == 503:
                pass  # it starts
            _, answer = await server.post(f"/generate/{name}", {"prompt": "hi"})
            assert answer["environment"]["AMS_MEDIA_URL_HOSTS"] == hosts
            assert answer["environment"]["AMS_TEMP_DIR"] == str(tmp_path / "temp")
        status, answer = await server.post("/generate/m", {"prompt": "x" * 3000})
        assert (status, answer["details"]["code"], answer["details"]["limit"]) == (413, "body_too_large", 2048)
        status, answer = await server.post("/generate/slow", {"prompt": "hi"})
        assert (status, answer["details"]["code"]) == (503, "model_loading")
        assert await server.interrupt() == 0
    assert any('"path":"/generate/m"' in line for line in server.lines)


def test_a_folder_for_bodies_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "m.yaml"
    file.write_text(manifest())
    places = ["--models-dir", str(tmp_path / "models"), "--log-dir", str(tmp_path / "logs")]
    assert main(["up", "-f", str(file), *places, "--spool-dir", str(tmp_path / "none")]) == 2
    assert "expected a folder that can be written to" in capsys.readouterr().err


async def test_sigterm_stops_it_too_and_logs_are_turned_over(tmp_path: Path) -> None:
    for _ in range(2):
        async with up(tmp_path) as server:
            await server.announced()
            await server.post("/generate/m", {"prompt": "hi"})
            assert await server.interrupt(signal.SIGTERM) == 0
    assert (tmp_path / "logs" / "m.log.1").read_text() == "serving m\n"


async def test_a_second_ctrl_c_ends_it_at_once(tmp_path: Path) -> None:
    text = manifest(spec="env: [{name: FAKE_SERVE, value: hang}]")
    async with up(tmp_path, text=text) as server:
        await server.announced()
        await server.line("m: ready")
        family = server.family()
        server.process.send_signal(signal.SIGINT)
        await server.line("stopping")
        assert await server.interrupt() == 130
        assert await gone(family)


async def test_a_killed_ams_up_leaves_nothing(tmp_path: Path) -> None:
    async with up(tmp_path) as server:
        await server.announced()
        await server.post("/generate/m", {"prompt": "hi"})
        family = server.family()
        server.process.kill()
        assert await gone(family)


async def test_a_held_request_is_told_when_the_server_stops(tmp_path: Path) -> None:
    async with up(tmp_path, text=manifest(spec="autoscaling: {}, env: [{name: FAKE_SERVE, value: slow}]")) as server:
        await server.announced()
        asking = asyncio.create_task(server.post("/generate/m", {"prompt": "hi"}))
        await server.line("m: reading 50 %")
        assert await server.interrupt() == 0
        status, answer = await asking
        assert (status, answer["details"]["code"]) == (503, "draining")


async def test_failures_and_suspension_reach_clients(tmp_path: Path) -> None:
    text = manifest("bad", "autoscaling: {}, env: [{name: FAKE_DOWNLOAD, value: gated}]") + "---\n"
    text += manifest("halted", "suspend: true")
    async with up(tmp_path, text=text) as server:
        await server.announced()
        status, answer = await server.post("/generate/bad", {"prompt": "hi"})
        assert (status, answer["details"]["code"], answer["details"]["reason"]) == (503, "model_failed", "GatedModel")
        assert answer["error"] == "bad can't be served (GatedModel): ask for access first"
        status, answer = await server.post("/generate/halted", {"prompt": "hi"})
        assert (status, answer["details"]["code"]) == (503, "suspended")
        assert await server.interrupt() == 0


async def test_a_terminal_shows_a_table_and_is_left_as_it_was(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    try:
        async with up(tmp_path, text=manifest(spec="replicas: 1"), stdout=theirs) as server:
            shown = await _read_until(ours, "ready")
            server.process.send_signal(signal.SIGINT)
            shown += await _read_until(ours, "\x1b[?25h")  # the cursor is back
            async with asyncio.timeout(20):
                assert await server.process.wait() == 0
    finally:
        os.close(ours)
        os.close(theirs)
    assert "REQUESTS" in shown
    assert "AI Model Server on http://127.0.0.1:" in shown
    assert "waiting for running requests" in shown


async def _read_until(descriptor: int, words: str) -> str:
    loop, shown = asyncio.get_running_loop(), ""
    async with asyncio.timeout(30):
        while words not in shown:
            readable = loop.create_future()
            loop.add_reader(descriptor, readable.set_result, None)
            await readable
            loop.remove_reader(descriptor)
            shown += os.read(descriptor, 65536).decode(errors="replace")
    return shown


async def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with up(tmp_path, "--port", str(port)) as server:
            assert await server.ended() == 1
    assert server.lines[-1] == (
        f"ams: port {port} on 127.0.0.1 is in use by another program; stop it, or choose another port with --port"
    )


async def test_a_host_that_is_not_ours(tmp_path: Path) -> None:
    async with up(tmp_path, "--host", "192.0.2.1", "--allow-anonymous") as server:
        assert await server.ended() == 1
    assert server.lines[-1].startswith("ams: can't listen on 192.0.2.1:0: ")


async def test_an_address_that_others_reach_needs_keys_or_a_word(tmp_path: Path) -> None:
    async with up(tmp_path, "--host", "0.0.0.0") as server:
        assert await server.ended() == 2
    assert "ams keys create" in server.lines[-1]


def run_main(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    return main(["up", *arguments]), capsys.readouterr().err


def test_bad_manifests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(manifest(spec="replicas: two"))
    assert run_main(capsys, "-f", str(path)) == (2, f"ams: {path}: spec.replicas: expected int, got str\n")
    assert run_main(capsys, "-f", "/no/such") == (2, "ams: /no/such: No such file or directory\n")
    path.write_text(manifest().replace("hf://a/b", "pvc://a/b"))
    status, words = run_main(capsys, "-f", str(path))
    assert status == 2
    assert words.startswith("ams: m: spec.model.source: pvc:// is a volume of a cluster; outside one use file:///path")


def test_bad_flags(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_main(capsys, "--port", "http") == (2, "ams: --port='http': expected int\n")
    monkeypatch.setenv("AMS_PORT", "70000")
    assert run_main(capsys) == (2, "ams: AMS_PORT='70000': expected int <= 65535\n")
    monkeypatch.delenv("AMS_PORT")
    status, words = run_main(capsys, "--memory-limit", "lots")
    assert (status, words.split(":")[1]) == (2, " --memory-limit='lots'")


def test_variables_that_would_be_dropped_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AMS_NAMESPACES", "AMS_THREADS", "AMS_LOG_DIR", "AMS_URL"):
        monkeypatch.setenv(name, "5")
    assert main(["up", "-f", str(tmp_path / "absent.yaml")]) == 2
    assert capsys.readouterr().err.splitlines()[0] == (
        "ams: AMS_NAMESPACES: set in the environment, but this command doesn't read it; for a model's process set it "
        "in spec.env of the manifest"
    )


def test_a_folder_that_cannot_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    path = str(tmp_path / "file" / "models")
    assert run_main(capsys, "--models-dir", path) == (1, f"ams: --models-dir {path}: Not a directory\n")


def test_missing_libraries_are_named_with_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert run_main(capsys) == (1, "ams: torch: not installed; run: pip install 'ai-model-server[local]'\n")


@pytest.mark.parametrize("program", [["-m", "ams_cli.main", "up"], [str(Path(__file__).parents[2] / "main.py")]])
def test_help_and_main_py_have_the_same_flags(program: list[str]) -> None:
    shown = subprocess.run([sys.executable, *program, "--help"], capture_output=True, text=True, check=True).stdout
    for flag in ("--filename", "--host", "--port", "--debug", "--models-dir", "--log-dir", "AMS_LOG_DIR"):
        assert flag in shown


def test_our_process_never_imports_the_pods_libraries() -> None:
    names = "torch transformers huggingface_hub numpy rich"
    code = f"import sys, ams_cli.up; print([name for name in {names.split()} if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"
    assert command.__name__ == "ams_cli.main"
