"""`ams keys` with a file, as its users call it."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from aiohttp import web
from ams_cli.gateway_access import gateway_access
from ams_cli.gateway_client import at_url, get_json
from ams_cli.main import main
from ams_cli.settings import ClientSettings
from ams_common.keys import Scope, hash_of, read_keys
from ams_common.options import OptionError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("AMS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "ai-model-server" / "keys.json"


def made(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The key that the command prints."""
    assert main(["keys", *arguments]) == 0
    return capsys.readouterr().out.removesuffix("\n")


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    status = main(["keys", *arguments])
    told = capsys.readouterr()
    assert (status, told.out) == (2, "")
    return told.err


def test_the_key_alone_is_on_the_standard_output(home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ams_cli.main", "keys", "create", "--name", "team-a", "--models", "qwen*, deepseek",
         "--scopes", "generate,admin", "--requests-per-minute", "60", "--tokens-per-minute", "9_000",
         "--concurrent", "4", "--monthly-tokens", "1000000", "--expires", "90d", "--priority", "20"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    key = done.stdout.removesuffix("\n")
    assert key.startswith("ams-key-")
    assert len(key) == 51
    assert key not in done.stderr
    [stored] = read_keys(home.read_bytes()).keys
    assert stored.secrets[0].sha256 == hash_of(key)
    assert (stored.models, stored.scopes) == (("qwen*", "deepseek"), (Scope.GENERATE, Scope.ADMIN))
    assert (stored.requests_per_minute, stored.tokens_per_minute, stored.concurrent_requests) == (60, 9000, 4)
    assert (stored.monthly_tokens, stored.priority) == (1_000_000, 20)
    assert stored.secrets[0].expires == stored.created + 90 * 86400
    assert stat.S_IMODE(home.stat().st_mode) == 0o600
    assert stat.S_IMODE(home.parent.stat().st_mode) == 0o700


def test_what_is_wrong_is_told_in_one_sentence(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    made(capsys, "create", "--name", "a")
    before = home.read_bytes()
    assert "called a already" in refused(capsys, "create", "--name", "a")
    assert "no key called 'b'; there are: a" in refused(capsys, "revoke", "b")
    assert "--name: 'a b': use letters" in refused(capsys, "create", "--name", "a b")
    assert "--scopes: there is no scope 'root'" in refused(capsys, "create", "--name", "b", "--scopes", "root")
    assert "--concurrent: expected int" in refused(capsys, "create", "--name", "b", "--concurrent", "x")
    assert "--expires: 'x': expected" in refused(capsys, "create", "--name", "b", "--expires", "x")
    assert "nothing to change" in refused(capsys, "update", "a")
    assert "-n and --secret are for -k" in refused(capsys, "list", "-n", "x")
    assert home.read_bytes() == before


def test_a_variable_names_the_file_and_is_not_in_the_way_of_a_cluster(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMS_KEYS_FILE", str(tmp_path / "mine.json"))
    made(capsys, "create", "--name", "a")
    assert len(read_keys((tmp_path / "mine.json").read_bytes()).keys) == 1
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    assert main(["keys", "list", "-k"]) == 1
    assert "no cluster is configured" in capsys.readouterr().err
    assert "leave it out, or -k" in refused(capsys, "list", "-k", "--keys-file", "x")


def test_listed_without_hashes(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    made(capsys, "create", "--name", "a", "--requests-per-minute", "60")
    digest = read_keys(home.read_bytes()).keys[0].secrets[0].sha256
    table = made(capsys, "list")
    assert "60 requests/min" in table
    assert "never" in table
    told = made(capsys, "list", "-o", "json")
    assert json.loads(told)["keys"][0]["secrets"] == [{"sha256": digest[:8], "expires": None}]
    for text in (table, told):
        assert digest[:8] in text
        assert digest[:9] not in text


def test_rotated_updated_and_revoked(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    old = made(capsys, "create", "--name", "a")
    new = made(capsys, "rotate", "a", "--keep", "24h")
    [stored] = read_keys(home.read_bytes()).keys
    assert [each.sha256 for each in stored.secrets] == [hash_of(new), hash_of(old)]
    made(capsys, "update", "a", "--models", "x*", "--name", "b")
    assert read_keys(home.read_bytes()).keys[0].models == ("x*",)
    assert main(["keys", "revoke", "b"]) == 0
    assert "within 2 s" in capsys.readouterr().err
    assert read_keys(home.read_bytes()).keys == ()


def test_a_first_key_is_made_once(capsys: pytest.CaptureFixture[str], home: Path, tmp_path: Path) -> None:
    saved = tmp_path / "first"
    arguments = ("create", "--name", "first", "--if-none", "--save-key", str(saved))
    assert made(capsys, *arguments) == ""
    key = saved.read_text().strip()
    assert stat.S_IMODE(saved.stat().st_mode) == 0o600
    assert made(capsys, *arguments) == ""
    assert saved.read_text().strip() == key
    assert read_keys(home.read_bytes()).keys[0].secrets[0].sha256 == hash_of(key)
    assert "such a file already" in refused(capsys, "create", "--name", "b", "--save-key", str(saved))


@pytest.mark.parametrize("content", [b"{", b'{"keys": [{"id": 1}]}', b'{"version": 2}', b"\xff"])
def test_a_file_that_is_broken_is_left_alone(capsys: pytest.CaptureFixture[str], home: Path, content: bytes) -> None:
    home.parent.mkdir(parents=True)
    home.write_bytes(content)
    for arguments in (("create", "--name", "a"), ("list",), ("revoke", "a")):
        assert main(["keys", *arguments]) == 1
        assert "left as it is" in capsys.readouterr().err
    assert home.read_bytes() == content


def test_a_link_stays_and_so_do_mode_and_owner(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    target = tmp_path / "elsewhere" / "real.json"
    target.parent.mkdir()
    target.write_text('{"keys": []}')
    target.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(target, 1234, 4321)
    before = target.stat()
    link = tmp_path / "keys.json"
    link.symlink_to(target)
    made(capsys, "create", "--name", "a", "--keys-file", str(link))
    assert link.is_symlink()
    assert len(read_keys(target.read_bytes()).keys) == 1
    after = target.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert sorted(path.name for path in target.parent.iterdir()) == ["real.json"]


def test_a_place_that_can_not_be_written(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert main(["keys", "create", "--name", "a", "--keys-file", str(tmp_path / "file" / "keys.json")]) == 1
    assert "ams: " in capsys.readouterr().err
    os.mkfifo(tmp_path / "pipe")
    assert main(["keys", "create", "--name", "a", "--keys-file", str(tmp_path / "pipe")]) == 1
    assert "is no file" in capsys.readouterr().err


def test_writers_at_once_lose_nothing(home: Path) -> None:
    program = "import sys; from ams_cli.main import main; sys.exit(max(main(a.split()) for a in sys.argv[1:]))"
    writers = [
        subprocess.Popen([sys.executable, "-c", program, *(f"keys create --name team-{n}-{i}" for i in range(4))])
        for n in range(4)
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0, 0]
    assert len(read_keys(home.read_bytes()).keys) == 16


def test_which_key_is_shown_to_a_gateway(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("from-file\n")
    assert gateway_access(ClientSettings(), {}).key == ""
    assert gateway_access(ClientSettings(), {"AMS_API_KEY": "from-env"}).key == "from-env"
    given = gateway_access(ClientSettings(api_key_file=str(file)), {"AMS_API_KEY": "from-env"})
    assert given.key == "from-file"
    assert "from-file" not in repr(given)
    for text in ("", "two words", "line\nline", "ä"):
        file.write_text(text)
        with pytest.raises(OptionError) as error:
            gateway_access(ClientSettings(api_key_file=str(file)), {})
        assert not text or text not in str(error.value)
    with pytest.raises(OptionError, match="No such file"):
        gateway_access(ClientSettings(api_key_file=str(tmp_path / "none")), {})


async def test_the_key_goes_with_each_request_and_refusals_say_what_to_do(unused_tcp_port: int) -> None:
    async def answer(request: web.Request) -> web.Response:
        match request.headers.get("Authorization"):
            case "Bearer right":
                return web.json_response({"model_configs": {}})
            case "Bearer busy":
                return web.json_response({"error": "Too many requests."}, status=429, headers={"Retry-After": "7"})
            case _:
                return web.json_response({"error": "The API key is unknown."}, status=401)

    app = web.Application()
    app.router.add_get("/x", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", unused_tcp_port).start()
    try:
        url = f"http://127.0.0.1:{unused_tcp_port}"
        for key, words in (("right", None), ("busy", "Try again in 7 s."), ("", "Put a key into AMS_API_KEY")):
            async with at_url(url, gateway_access(ClientSettings(), {"AMS_API_KEY": key})) as gateway:
                if words is None:
                    assert await get_json(gateway, "/x", dict) == {"model_configs": {}}
                else:
                    with pytest.raises(Exception, match=words):
                        await get_json(gateway, "/x", dict)
    finally:
        await runner.cleanup()
