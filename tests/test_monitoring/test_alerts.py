"""Each alert fires when it should, not before, and ends; its metrics exist, and so does its page."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from metrics_page import COMPONENTS, lines_of
from prometheus_server import needs_promtool
from test_chart.chart import needs_helm, render
from test_monitoring.alert_cases import LEADS, STORIES, Story

from dashboards import rules

RULES = rules.load()
ALERTS = [rule for rule in RULES if "alert" in rule]
NAMES = list(dict.fromkeys(rule["alert"] for rule in ALERTS))
METRICS = {line.name for expose in COMPONENTS.values() for line in lines_of(expose())}
RECORDS = {rule["record"] for rule in RULES if "record" in rule}
REASON = re.compile(r"`([A-Z][a-z]+(?:[A-Z][a-z]+)+)`")


def metrics_in(text: str) -> set[str]:
    found = re.findall(r"\bams_(?:gateway|pod|operator|download)_\w+", text)
    return {re.sub(r"_(bucket|count|sum)$", "", name) for name in found}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_a_rule_is_about_known_metrics(rule: dict[str, Any]) -> None:
    named = {
        re.sub(r"_(bucket|count|sum)$", "", name)
        for name in re.findall(r"(?<!:)\bams_(?!failures|slow)\w+", rule["expr"])
    }
    recorded = set(re.findall(r"\bmodel:\w+:\w+", rule["expr"]))
    assert named | recorded
    assert named <= METRICS
    assert recorded <= RECORDS


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_says_how_bad_it_is_and_what_happened(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in ("warning", "critical")
    assert alert["annotations"]["summary"].endswith(".")
    assert not re.search(r"@\w+@", str(alert))


def test_every_alert_has_its_page_and_every_page_its_alert() -> None:
    assert sorted(path.stem for path in rules.RUNBOOKS.glob("*.md")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_page_says_what_it_means_where_to_look_and_what_to_do(name: str) -> None:
    text = (rules.RUNBOOKS / f"{name}.md").read_text()
    assert re.findall(r"^#+ .+$", text, re.M) == [f"# {name}", "## What it means", "## Look", "## What to do"]
    assert len(re.findall(r"^\$ (kubectl|ams) ", text, re.M)) == 3
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (rules.RUNBOOKS / link).is_file(), link
    metrics = {
        re.sub(r"_(bucket|count|sum)$", "", found) for found in re.findall(r"\bams_(?:gateway|pod|operator)_\w+", text)
    }
    assert metrics <= METRICS


def test_reasons_on_the_pages_exist() -> None:
    from ams_common.reasons import Reason

    named = {found for path in rules.RUNBOOKS.glob("*.md") for found in REASON.findall(path.read_text())}
    assert named
    assert named <= set(Reason)


def test_what_is_rendered_is_current() -> None:
    assert (rules.ROOT / "docs" / "alerts.md").read_text() == rules.index(), "run `make docs`"
    written = yaml.safe_load((rules.CHART / "files" / "prometheus-rules.yaml").read_text())
    assert written == rules.rules_file(rules.with_runbooks(rules.load(), "docs/runbooks")), "run `make docs`"


@needs_helm
def test_the_chart_installs_them_when_asked() -> None:
    assert not [kind for kind, _ in render() if kind == "PrometheusRule"]
    values = {
        "prometheusRule": {"enabled": True, "labels": {"a": "b"}, "runbookBaseUrl": "https://x.example/r/"},
        "slo": {"requests": 0.999, "firstToken": {"seconds": 0.5, "ratio": 0.99}, "minimumRequests": 5},
    }
    rule = render(values)["PrometheusRule", ""]
    assert rule["metadata"]["labels"]["a"] == "b"
    numbers = {"requests": "0.999", "firstTokenRatio": "0.99", "firstTokenSeconds": "0.5", "minimumRequests": "5"}
    expected = rules.with_runbooks(rules.load(numbers), "https://x.example/r")
    assert rule["spec"]["groups"] == [{"name": "ai-model-server", "rules": expected}]


@pytest.mark.parametrize("seconds", [0.05, 0.5, 5, 60])
def test_the_objective_is_a_bound_of_the_histogram(seconds: float) -> None:
    from ams_pod.serve.counts import REQUEST_SECONDS

    assert seconds in REQUEST_SECONDS
    assert re.fullmatch(f"{seconds}([.]0)?", str(float(seconds)))


def test_every_alert_has_a_story() -> None:
    severities = {(rule["alert"], rule["labels"]["severity"]) for rule in ALERTS}
    assert {(story.alert, story.severity) for story in STORIES} == severities


@needs_promtool
@pytest.mark.parametrize("story", STORIES, ids=lambda story: f"{story.alert}-{story.severity}")
def test_it_fires_and_it_ends(story: Story, tmp_path: Path) -> None:
    rules_path = tmp_path / "rules.yaml"
    rules_path.write_text(yaml.safe_dump(rules.rules_file(rules.load())))
    series = {**LEADS, **story.series}
    firing = 'count by (alertname) (ALERTS{alertstate="firing"})'
    own = f'ALERTS{{alertname="{story.alert}",alertstate="firing",severity="{story.severity}"}}'
    expected = [{"labels": f'{{alertname="{story.alert}"}}', "value": 1}]
    checks = [
        {"expr": firing, "eval_time": f"{story.quiet}m", "exp_samples": []},
        {"expr": f"{firing} > bool 0", "eval_time": f"{story.fires}m", "exp_samples": expected},
        {"expr": f"count({own})", "eval_time": f"{story.fires}m", "exp_samples": [{"labels": "{}", "value": 1}]},
        {"expr": firing, "eval_time": f"{story.over}m", "exp_samples": []},
    ]
    test = {
        "rule_files": [str(rules_path)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "promql_expr_test": checks,
            }
        ],
    }
    test_path = tmp_path / "test.yaml"
    test_path.write_text(yaml.safe_dump(test))
    done = subprocess.run(["promtool", "test", "rules", str(test_path)], capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_the_scrape_configuration_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "prometheus.yaml"
    jobs = yaml.safe_load((rules.CHART / "files" / "prometheus-scrape.yaml").read_text())
    for job in jobs:  # Debian's build doesn't know the cluster's discovery
        assert job.pop("kubernetes_sd_configs") == [{"role": "pod"}]
        job["static_configs"] = [{"targets": ["127.0.0.1:1"]}]
    path.write_text(yaml.safe_dump({"scrape_configs": jobs}))
    done = subprocess.run(["promtool", "check", "config", str(path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
