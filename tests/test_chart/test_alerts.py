"""Alerts are about metrics that exist, and each has a runbook."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from metrics_page import COMPONENTS, lines_of
from test_chart.chart import CHART, needs_helm, render

ALERTS: list[dict[str, Any]] = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())
RUNBOOKS = (CHART.parents[1] / "docs" / "alerts.md").read_text()
METRICS = {line.name for expose in COMPONENTS.values() for line in lines_of(expose())}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_is_about_known_metrics_and_has_a_runbook(alert: dict[str, Any]) -> None:
    named = {name.removesuffix("_bucket") for name in re.findall(r"\bams_\w+", alert["expr"])}
    assert named
    assert named <= METRICS
    assert f"\n## {alert['alert']}\n" in RUNBOOKS
    assert alert["labels"]["severity"] in ("warning", "critical")
    assert alert["annotations"]["summary"].endswith(".")


def test_every_runbook_is_of_an_alert() -> None:
    assert re.findall(r"^## (\w+)$", RUNBOOKS, re.M) == [alert["alert"] for alert in ALERTS]


@needs_helm
def test_the_chart_installs_them_when_asked() -> None:
    assert not [kind for kind, _ in render() if kind == "PrometheusRule"]
    rule = render({"prometheusRule": {"enabled": True, "labels": {"a": "b"}, "runbookUrl": "https://x.example/a"}})
    spec = rule["PrometheusRule", ""]["spec"]["groups"]
    assert rule["PrometheusRule", ""]["metadata"]["labels"]["a"] == "b"
    (group,) = spec
    urls = {each["alert"]: each["annotations"].pop("runbook_url") for each in group["rules"]}
    assert urls == {alert["alert"]: f"https://x.example/a#{alert['alert'].lower()}" for alert in ALERTS}
    assert group["rules"] == ALERTS


@pytest.mark.skipif(shutil.which("promtool") is None, reason="there is no promtool")
def test_promtool_finds_nothing(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "ai-model-server", "rules": ALERTS}]}))
    done = subprocess.run(["promtool", "check", "rules", str(file)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
