"""Each panel of each dashboard shows data of a running product in a real Prometheus, or says why it may show none."""

import contextlib
import json
import math
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kube_cluster import ControlPlane, control_plane
from metrics_page import COMPONENTS, lines_of, pod
from prometheus_server import Prometheus, needs_prometheus, prometheus
from test_chart.chart import needs_helm, render
from test_monitoring.whole import Whole, whole

from dashboards import rules
from dashboards.panels import MAY_BE_EMPTY, Board, Panel
from dashboards.queries import EVERYTHING, filled
from dashboards.render import BOARDS, FOLDER, file_name, rendered

__all__ = ["control_plane"]
PANELS = [(board, panel) for board in BOARDS for panel in board.panels]
METRICS = {line.name for expose in COMPONENTS.values() for line in lines_of(expose())}
METRICS |= {line.name for line in lines_of(pod(), "vllm:")}
UNITS = {"short", "s", "bytes", "Bps", "reqps", "percentunit", "none", "tok/s", "currencyUSD", "ops", "h"}


def name_of(value: Any) -> str:
    return value.title if isinstance(value, Panel) else value.uid


@pytest.mark.parametrize("board", BOARDS, ids=name_of)
def test_a_file_is_current(board: Board) -> None:
    assert (FOLDER / file_name(board)).read_text() == rendered(board), "run `make dashboards`"


def test_there_are_no_other_files() -> None:
    assert sorted(path.name for path in FOLDER.iterdir()) == sorted(map(file_name, BOARDS))


@pytest.mark.parametrize("board", BOARDS, ids=name_of)
def test_grafana_can_import_it(board: Board) -> None:
    document = json.loads(rendered(board))
    assert document["uid"] == board.uid
    assert document["tags"] == ["ai-model-server"]
    numbers = [panel["id"] for panel in document["panels"]]
    assert len(set(numbers)) == len(numbers)
    taken = set()
    for panel in document["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    names = {variable["name"] for variable in document["templating"]["list"]}
    used = set(re.findall(r"\$\{?([A-Za-z]\w*)", json.dumps(document)))
    assert {name for name in used if not name.startswith("__")} <= names
    assert {"datasource", "runbooks"} <= names


@pytest.mark.parametrize(("board", "panel"), PANELS, ids=name_of)
def test_a_panel_has_a_unit_a_text_and_known_metrics(board: Board, panel: Panel) -> None:
    assert panel.unit in UNITS
    assert panel.help.endswith(".")
    assert not panel.empty or panel.description.endswith(f"{MAY_BE_EMPTY}{panel.empty}")
    if panel.runbook:
        assert (rules.RUNBOOKS / f"{panel.runbook}.md").is_file()
    for query in panel.queries:
        named = set(re.findall(r"\b(?:ams_(?:gateway|pod|operator)_|vllm:)\w+", query.expr))
        assert {re.sub(r"_(bucket|count|sum)$", "", name) for name in named} <= METRICS


@pytest.fixture(scope="module")
def running(
    control_plane: ControlPlane, llama: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Prometheus, Whole]]:
    """The product under load, until Prometheus has seen enough of it."""
    folder = tmp_path_factory.mktemp("whole")
    with (
        whole(folder, llama, control_plane) as product,
        prometheus(folder / "prometheus", product.targets) as server,
        contextlib.ExitStack() as loads,
    ):
        server.until_up(len(product.targets))
        for load in product.load():
            loads.enter_context(load)
        server.until('rate(ams_gateway_limit_refusals_total{limit="requests"}[30s]) > 0')
        server.until("sum(rate(ams_pod_generated_tokens_total[30s])) > 0")
        server.until('count_over_time(up{pod="ams-operator-0"}[30s]) > 10')
        yield server, product


@needs_prometheus
@pytest.mark.parametrize(("board", "panel"), PANELS, ids=name_of)
def test_a_panel_shows_data(board: Board, panel: Panel, running: tuple[Prometheus, Whole]) -> None:
    server, _ = running
    for query in panel.queries:
        assert panel.empty or has_data(server, panel, query.expr), query.expr


@needs_prometheus
def test_panels_that_may_be_empty_mostly_are_not(running: tuple[Prometheus, Whole]) -> None:
    """What the product under this load has to show: a wrong query would hide behind its excuse."""
    server, _ = running
    told = {(board.uid, panel.title) for board, panel in PANELS if panel.empty and shows(server, panel)}
    assert {
        ("ams-fleet", "Conditions that are False"),
        ("ams-model", "Errors"),
        ("ams-model", "Tokens a step"),
        ("ams-model", "Last start"),
        ("ams-gateway", "Errors"),
        ("ams-gateway", "Keys refused"),
        ("ams-operator", "Not ready"),
        ("ams-operator", "Time of a reconcile"),
        ("ams-usage", "Budgets"),
        ("ams-usage", "Share of the compute"),
        ("ams-usage", "Cost of a million tokens"),
    } <= told


@needs_prometheus
@pytest.mark.parametrize("board", BOARDS, ids=name_of)
def test_variables_have_values(board: Board, running: tuple[Prometheus, Whole]) -> None:
    server, _ = running
    for variable in board.variables:
        found = re.fullmatch(r"label_values\((.+), (\w+)\)", variable.query)
        assert found is not None
        series = server.query(filled(found[1], EVERYTHING, rate_seconds=30, range_seconds=60))
        values = {each["metric"].get(found[2], "") for each in series}
        if variable.regex:
            parts = [re.search(variable.regex[1:-1], value) for value in values]
            values = {part[1] for part in parts if part is not None}
        assert values - {""}, variable.name


def shows(server: Prometheus, panel: Panel) -> bool:
    return all(has_data(server, panel, query.expr) for query in panel.queries)


def has_data(server: Prometheus, panel: Panel, expression: str) -> bool:
    """Whether a query of a panel gives a number."""
    expression = filled(expression, EVERYTHING, rate_seconds=30, range_seconds=60)
    if panel.kind in ("stat", "table"):
        values = [series["value"][1] for series in server.query(expression)]
    else:
        now = time.time()
        found = server.query_range(expression, now - 60, now, 1)
        values = [value for series in found for _, value in series["values"]]
    return any(not math.isnan(float(value)) for value in values)


@needs_helm
def test_the_chart_has_them_as_config_maps() -> None:
    assert not [name for kind, name in render() if kind == "ConfigMap" and name.startswith("ams-")]
    values = {
        "dashboards": {"enabled": True, "folder": "Serving", "labels": {"team": "ml"}},
        "prometheusRule": {"runbookBaseUrl": "https://x.example/runbooks/"},
    }
    objects = render(values)
    for board in BOARDS:
        found = objects["ConfigMap", board.uid]
        assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert found["metadata"]["labels"]["team"] == "ml"
        assert found["metadata"]["annotations"] == {"grafana_folder": "Serving"}
        (text,) = found["data"].values()
        written = rendered(board).replace('"docs/runbooks"', '"https://x.example/runbooks"')
        assert json.loads(text) == json.loads(written)
        assert "https://x.example/runbooks" in text
