"""What a model's pod is told, from its resource."""

import json
from pathlib import Path

import yaml
from ams_common.pod_settings import DownloadSettings, ServeSettings
from ams_common.resource.parse import parse_model_deployment
from ams_common.settings_from_spec import download_settings, serve_settings
from test_common.resource_cases import SHA, SOURCE, manifest

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart.yaml"


def test_the_smallest_resource() -> None:
    resource = parse_model_deployment(manifest())
    assert download_settings(resource) == DownloadSettings(source=SOURCE)
    assert serve_settings(resource) == ServeSettings(name="qwen-vl", source=SOURCE)


def test_everything_that_a_pod_is_told() -> None:
    resource = parse_model_deployment(
        manifest(
            spec__model={"source": SOURCE, "family": "vision-language", "aliases": ["a", "b/c"], "lock": {"x": SHA}},
            spec__quantization="4bit",
            spec__precision="float16",
            spec__limits={
                "maxNewTokens": 10,
                "contextTokens": 2048,
                "concurrentRequests": 4,
                "queuedRequests": 0,
                "requestTimeoutSeconds": 30,
                "maxBodyBytes": "1Mi",
                "videoFrames": 4,
                "mediaUrlHosts": ["example.com", "*.example.org:8443"],
            },
        )
    )
    assert serve_settings(resource) == ServeSettings(
        name="qwen-vl",
        source=SOURCE,
        aliases="a,b/c",
        family="vision-language",
        precision="float16",
        quantization="4bit",
        max_new_tokens=10,
        context_tokens=2048,
        concurrent_requests=4,
        queued_requests=0,
        request_timeout_seconds=30.0,
        max_body_bytes=1 << 20,
        video_frames=4,
        media_url_hosts="example.com,*.example.org:8443",
    )
    assert json.loads(download_settings(resource).lock) == {"x": SHA}


def test_the_quickstart_is_valid_and_called_smollm2() -> None:
    resource = parse_model_deployment(yaml.safe_load(QUICKSTART.read_text()))
    assert serve_settings(resource).name == "smollm2"
    assert resource.spec.autoscaling is not None
    assert resource.spec.autoscaling.min_replicas == 0
