"""Settings from flags and AMS_* variables."""

import argparse
import json
from typing import Annotated, Literal

import msgspec
import pytest
from ams_common.options import OptionError, add_flags, environment_of, parse, resolve_settings, unread, variables_of
from ams_common.pod_settings import DownloadSettings, ServeSettings
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    source: Annotated[str, Meta(description="where from")]
    port: Annotated[int, Meta(ge=0, le=65535, description="port, 100 % yours")] = 8080
    mode: Literal["quick", "full"] = "quick"
    seconds: float = 1.5
    debug: bool = False
    tls: bool = True
    note: str = ""


def test_a_flag_wins_over_a_variable_and_both_over_the_default() -> None:
    environment = {"AMS_SOURCE": "a", "AMS_PORT": "1", "AMS_MODE": "full"}
    settings = resolve_settings(Settings, {"port": "2", "mode": None}, environment)
    assert settings == Settings(source="a", port=2, mode="full")


def test_an_empty_variable_is_not_given() -> None:
    assert resolve_settings(Settings, {"source": "a"}, {"AMS_PORT": "", "AMS_DEBUG": ""}) == Settings(source="a")


@pytest.mark.parametrize(("text", "value"), [("true", True), ("1", True), ("false", False), ("0", False)])
def test_booleans_of_the_environment(text: str, value: bool) -> None:
    assert resolve_settings(Settings, {"source": "a"}, {"AMS_DEBUG": text}).debug is value


@pytest.mark.parametrize(
    ("flags", "environment", "words"),
    [
        ({}, {}, "--source (or AMS_SOURCE) is required"),
        ({}, {"AMS_SOURCE": ""}, "--source (or AMS_SOURCE) is required"),
        ({"source": "a", "port": "x"}, {}, "--port='x': expected int"),
        ({"source": "a"}, {"AMS_PORT": "70000"}, "AMS_PORT='70000': expected int <= 65535"),
        ({"source": "a"}, {"AMS_MODE": "slow"}, "AMS_MODE='slow': invalid enum value 'slow'; allowed: full, quick"),
        ({"source": "a"}, {"AMS_DEBUG": "yes"}, "AMS_DEBUG='yes': expected true or false"),
    ],
)
def test_a_bad_value_is_told_in_one_sentence(flags: dict[str, str], environment: dict[str, str], words: str) -> None:
    with pytest.raises(OptionError) as caught:
        resolve_settings(Settings, flags, environment)
    assert str(caught.value) == words


def test_flags_and_help_come_from_the_fields(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser(prog="x")
    add_flags(parser, Settings)
    arguments = parser.parse_args(["--source", "a", "--debug", "--no-tls"])
    assert resolve_settings(Settings, vars(arguments), {}) == Settings(source="a", debug=True, tls=False)
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "port, 100 % yours (default 8080) [AMS_PORT]" in text
    assert "where from [AMS_SOURCE]" in text


def test_a_command_ends_with_status_2_and_the_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(Settings, "x", ["--source", "a", "--port", "no"], {})
    assert caught.value.code == 2
    assert "x: error: --port='no': expected int" in capsys.readouterr().err


@given(
    st.builds(
        Settings,
        source=st.text(min_size=1),
        port=st.integers(0, 65535),
        mode=st.sampled_from(["quick", "full"]),
        seconds=st.floats(allow_nan=False, allow_infinity=False),
        debug=st.booleans(),
        tls=st.booleans(),
    )
)
def test_settings_survive_the_way_through_the_environment(settings: Settings) -> None:
    assert resolve_settings(Settings, {}, environment_of(settings)) == settings


def test_a_pods_settings_survive_too() -> None:
    settings = ServeSettings(name="a", source="hf://a/b", uds="/tmp/x.sock", debug=True, grace_seconds=0.0)
    environment = environment_of(settings)
    assert set(environment) == {"AMS_NAME", "AMS_SOURCE", "AMS_UDS", "AMS_DEBUG", "AMS_GRACE_SECONDS"}
    assert resolve_settings(ServeSettings, {}, environment) == settings


@pytest.mark.parametrize(
    ("environment", "line"),
    [
        ({"AMS_NAME": "m", "AMS_SOURCE": "x", "PATH": "/bin", "AMS_PORT": ""}, None),
        ({"AMS_HOLD_SECONDS": "5"}, "AMS_HOLD_SECONDS: set in the environment, but this command doesn't read it"),
        (
            {"AMS_PROT": "1", "AMS_HOLD_SECONDS": "5", "AMS_NAME": "m"},
            "AMS_HOLD_SECONDS, AMS_PROT (did you mean AMS_PORT?): set in the environment, but this command doesn't "
            "read them",
        ),
        # Kubernetes announces a Service called ams-gateway like this.
        ({"AMS_GATEWAY_SERVICE_HOST": "10.0.0.1", "AMS_GATEWAY_PORT_80_TCP_ADDR": "10.0.0.1"}, None),
        ({"AMS_GATEWAY_SERVICE_PORT_HTTP": "80", "AMS_GATEWAY_PORT": "tcp://10.0.0.1:80"}, None),
    ],
)
def test_variables_that_a_command_drops_are_named(environment: dict[str, str], line: str | None) -> None:
    assert unread(environment, variables_of(ServeSettings)) == line


def test_a_command_says_in_one_line_what_it_drops(capsys: pytest.CaptureFixture[str]) -> None:
    environment = {"AMS_NAME": "m", "AMS_SOURCE": "file:///x", "AMS_RETRY_SECONDS": "5", "AMS_HOLD_SECONDS": "5"}
    parse(ServeSettings, "ams-pod serve", [], environment, shared_with=DownloadSettings)
    said = "ams-pod serve: AMS_HOLD_SECONDS: set in the environment, but this command doesn't read it\n"
    assert capsys.readouterr().err == said
    parse(ServeSettings, "ams-pod serve", ["--log-format", "json"], environment, shared_with=DownloadSettings)
    told = json.loads(capsys.readouterr().err)
    assert (told["logger"], told["level"]) == ("ams-pod serve", "warning")
    assert told["message"] == said.removeprefix("ams-pod serve: ").rstrip()


def test_what_is_dropped_is_told_beside_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    environment = {"AMS_NAME": "m", "AMS_SURCE": "file:///x"}
    with pytest.raises(SystemExit):
        parse(ServeSettings, "ams-pod serve", [], environment)
    said = capsys.readouterr().err
    assert "AMS_SURCE (did you mean AMS_SOURCE?)" in said
    assert "required" in said
