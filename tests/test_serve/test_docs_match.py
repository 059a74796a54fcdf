"""The documents say what the programs do."""

import re
from pathlib import Path

import msgspec
from ams_cli.settings import UpSettings
from ams_common.errors import ERRORS
from ams_common.options import flag_name
from ams_common.reference import with_tables
from ams_common.wire import ChatRequest, CompletionRequest, GenerateRequest, GenerateResponse, TranscriptionRequest
from ams_common.wire.messages import MessagesRequest
from ams_common.wire.responses import ResponsesRequest
from ams_gateway.routes.table import ROUTES
from ams_gateway.settings import GatewaySettings
from ams_pod.media.limits import MediaLimits
from ams_pod.media.sizing import MAX_FRAMES

ROOT = Path(__file__).parents[2]
HTTP = (ROOT / "docs" / "http.md").read_text(encoding="utf-8")
MEDIA = (ROOT / "docs" / "media.md").read_text(encoding="utf-8")
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
LIMITS = MediaLimits()


def test_settings_are_those_of_the_commands() -> None:
    assert with_tables(CONFIGURATION) == CONFIGURATION, "run: python -m ams_common.reference < docs/configuration.md"
    assert CONFIGURATION.count("<!-- settings: ") == 7
    for flag in ("--context-tokens", "--hold-seconds", "--retry-seconds", "--log-dir"):
        assert f"| `{flag}` |" in CONFIGURATION


def test_settings_that_the_page_on_http_names_are_those_of_both_servers() -> None:
    flags = set(re.findall(r"`(--[a-z-]+)`", HTTP))
    assert len(flags) > 10
    for settings in (UpSettings, GatewaySettings):
        own = {flag_name(field.name) for field in msgspec.structs.fields(settings)}
        others = {"--temp-dir", "--media-url-hosts"} if settings is GatewaySettings else set()  # of the pods behind it
        assert flags - own <= others


def test_families_are_those_that_are_served() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert with_tables(readme) == readme, "run: python -m ams_common.reference < README.md"
    assert "| vision-language | Qwen2.5-VL |" in readme


def test_errors_are_those_of_the_table() -> None:
    rows = re.findall(r"^\| (\d{3}) \| `(\w+)` \| (.+) \|$", HTTP, re.M)
    assert [(int(status), code, meaning) for status, code, meaning in rows] == [
        (kind.status, code, kind.meaning) for code, kind in ERRORS.items()
    ]


def test_limits_of_media_are_those_that_hold() -> None:
    for number in (LIMITS.image_pixels, LIMITS.kept_image_pixels, LIMITS.frame_pixels, LIMITS.kept_frame_pixels):
        assert f"{number:,} pixels" in MEDIA
    assert f"{LIMITS.audio_seconds / 60:g} minutes" in MEDIA
    assert f"{LIMITS.video_seconds / 60:g} minutes" in MEDIA
    assert f"at most {LIMITS.aspect_ratio} times the other" in MEDIA
    assert f"may hold {LIMITS.items} media" in MEDIA
    assert f"{LIMITS.pdf_pages} pages" in MEDIA
    assert f"up to {MAX_FRAMES} of one size" in MEDIA
    assert f"may take {LIMITS.cpu_seconds:g} seconds" in MEDIA
    assert (LIMITS.decoded_bytes, LIMITS.request_memory_bytes, LIMITS.fetch_seconds) == (1 << 30, 4 << 20, 30)


def test_every_field_is_told() -> None:
    requests = (
        GenerateRequest,
        ChatRequest,
        CompletionRequest,
        TranscriptionRequest,
        ResponsesRequest,
        MessagesRequest,
    )
    for type_ in (*requests, GenerateResponse):
        names = {field.name for field in msgspec.structs.fields(type_)}
        assert {name for name in names if f"`{name}`" not in HTTP} == set()


def test_routes_are_those_of_the_gateway() -> None:
    documented = {
        (method, path)
        for line in HTTP.splitlines()
        if line.startswith("| `")
        for method, path in re.findall(r"`(GET|POST|DELETE) (/\S*)`", line)
    }
    assert documented == {(route.method, route.path) for route in ROUTES}
