"""Panels, rows and variables as plain data, and how Grafana's JSON is made of them. Queries are PromQL."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from grafana_foundation_sdk.builders import common, prometheus, stat, table, timeseries
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

TAG = "ai-model-server"
MAY_BE_EMPTY = "May be empty: "
_WIDTH = 24
_SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
_RUNBOOKS = "docs/runbooks"  # where the files are used as they are; the chart puts its value here

Unit = Literal[
    "short", "s", "bytes", "Bps", "reqps", "percentunit", "none", "tok/s", "dateTimeAsIso", "currencyUSD", "ops", "h"
]
Kind = Literal["graph", "stacked", "stat", "table"]


@dataclass(frozen=True, slots=True)
class Query:
    """`legend` may hold {{label}}; in a table it is the column's title."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """`empty` says when there is nothing to show; without it there always is. `runbook` is the alert to link to.

    `labels` of a table are its first columns, by label; `steps` are values from which on a stat is orange and red.
    """

    title: str
    queries: Sequence[Query]
    help: str
    unit: Unit = "short"
    kind: Kind = "graph"
    width: int = 8
    height: int = 7
    empty: str = ""
    runbook: str = ""
    labels: Sequence[str] = ()
    units: Mapping[str, Unit] = field(default_factory=dict)
    steps: tuple[float, float] | None = None
    link: str = ""

    @property
    def description(self) -> str:
        return f"{self.help} {MAY_BE_EMPTY}{self.empty}" if self.empty else self.help


@dataclass(frozen=True, slots=True)
class Row:
    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True, slots=True)
class Variable:
    """`query` is Prometheus'; `regex` takes the part of what it gives."""

    name: str
    label: str
    query: str
    regex: str = ""


@dataclass(frozen=True, slots=True)
class Board:
    uid: str
    title: str
    help: str
    rows: Sequence[Row]
    variables: Sequence[Variable] = ()
    texts: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # variables to type in: label, default

    @property
    def panels(self) -> list[Panel]:
        return [panel for row in self.rows for panel in row.panels]


NAMESPACE = Variable("namespace", "Namespace", "label_values(ams_operator_ready_replicas, model)", r"/^([^\/]+)\//")
MODEL = Variable("model", "Model", "label_values(ams_gateway_requests_in_flight, model)", "/([^.]+)$/")
POD = Variable(
    "pod", "Pod", 'label_values(ams_pod_running_requests{namespace=~"$namespace",model=~"$model"}, pod)'
)  # fmt: skip

# What chooses series of a component by the variables. Operators write models as namespace/name, gateways as name or
# namespace.name.
OF_PODS = 'namespace=~"$namespace",model=~"$model",pod=~"$pod"'
OF_GATEWAY = 'model=~"(.+[.])?($model)"'
OF_OPERATOR = 'model=~"($namespace)/($model)"'


def rate(name: str, selector: str = "", by: str = "") -> str:
    """A counter's increase a second, summed."""
    inner = f"rate({name}{{{selector}}}[$__rate_interval])" if selector else f"rate({name}[$__rate_interval])"
    return f"sum by ({by}) ({inner})" if by else f"sum({inner})"


def quantiles(name: str, selector: str = "", levels: Sequence[float] = (0.5, 0.95, 0.99)) -> list[Query]:
    """Of a histogram, over all series."""
    return [
        Query(f"histogram_quantile({level}, {rate(f'{name}_bucket', selector, 'le')})", f"p{level * 100:g}")
        for level in levels
    ]


def build(board: Board) -> models.Dashboard:
    builder = (
        builders.Dashboard(board.title)
        .uid(board.uid)
        .description(board.help)
        .tags([TAG])
        .timezone("browser")
        .refresh("30s")
        .time("now-1h", "now")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .editable()
        .link(_link_to_boards())
        .link(_link_to_runbooks())
        .with_variable(builders.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    )
    for variable in board.variables:
        builder.with_variable(_variable(variable))
    for name, (label, default) in board.texts.items():
        builder.with_variable(builders.TextBoxVariable(name).label(label).default_value(default))
    builder.with_variable(builders.ConstantVariable("runbooks").value(_RUNBOOKS))
    y, number = 0, 1
    for row in board.rows:
        number += 1
        header = builders.Row(row.title).id(number).grid_pos(models.GridPos(h=1, w=_WIDTH, x=0, y=y))
        builder.with_row(header)
        x, y, tallest = 0, y + 1, 0
        for panel in row.panels:
            if x + panel.width > _WIDTH:
                x, y, tallest = 0, y + tallest, 0
            number += 1
            place = models.GridPos(h=panel.height, w=panel.width, x=x, y=y)
            builder.with_panel(_panel(panel, number, place))
            x, tallest = x + panel.width, max(tallest, panel.height)
        y += tallest
    return builder.build()


def _variable(variable: Variable) -> Any:
    every = models.VariableOption(selected=True, text="All", value="$__all")
    builder = (
        builders.QueryVariable(variable.name)
        .label(variable.label)
        .datasource(_SOURCE)
        .query(variable.query)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(every)
    )
    return builder.regex(variable.regex) if variable.regex else builder


def _link_to_boards() -> Any:
    return (
        builders.DashboardLink("AI Model Server")
        .type(models.DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .as_dropdown(True)
        .include_vars(True)
        .keep_time(True)
        .icon("external link")
    )


def _link_to_runbooks() -> Any:
    link = builders.DashboardLink("Runbooks").type(models.DashboardLinkType.LINK)
    return link.url("${runbooks}").icon("doc").target_blank(True)


def _panel(panel: Panel, number: int, place: models.GridPos) -> Any:
    match panel.kind:
        case "stat":
            builder: Any = _stat(panel)
        case "table":
            builder = _table(panel)
        case _:
            builder = _graph(panel)
    for letter, query in zip("ABCDEFGHIJKL", panel.queries, strict=False):
        builder.with_target(_target(panel, letter, query))
    builder.id(number).title(panel.title).description(panel.description).datasource(_SOURCE).grid_pos(place)
    builder.unit(panel.unit)
    if panel.empty:
        builder.no_value("nothing")
    if panel.runbook:
        runbook = builders.DashboardLink(f"Runbook: {panel.runbook}").url(f"${{runbooks}}/{panel.runbook}.md")
        builder.links([runbook.type(models.DashboardLinkType.LINK).target_blank(True)])
    return builder


def _target(panel: Panel, letter: str, query: Query) -> Any:
    target = prometheus.Dataquery().expr(query.expr).ref_id(letter).datasource(_SOURCE)
    if panel.kind == "table":
        return target.format(PromQueryFormat.TABLE).instant()
    target.legend_format(query.legend or "__auto")
    return target.instant() if panel.kind == "stat" else target.range()


def _stat(panel: Panel) -> Any:
    builder = (
        stat.Panel()
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .graph_mode(common_models.BigValueGraphMode.NONE)
        .color_mode(common_models.BigValueColorMode.VALUE)
    )
    return builder.thresholds(_thresholds(panel.steps))


def _thresholds(steps: tuple[float, float] | None) -> Any:
    colors = [models.Threshold(color="green", value=None)]
    if steps is not None:
        colors += [models.Threshold(color="orange", value=steps[0]), models.Threshold(color="red", value=steps[1])]
    return builders.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(colors)


def _graph(panel: Panel) -> Any:
    legend = (
        common.VizLegendOptions()
        .display_mode(common_models.LegendDisplayMode.LIST)
        .placement(common_models.LegendPlacement.BOTTOM)
        .show_legend(True)
    )
    builder = timeseries.Panel().legend(legend).min(0).line_width(1).fill_opacity(10)
    if panel.kind == "stacked":
        builder.stacking(common.StackingConfig().mode(common_models.StackingMode.NORMAL).group("A")).fill_opacity(40)
    return builder


def _table(panel: Panel) -> Any:
    """Rows by the labels; a column for each query."""
    letters = {f"Value #{letter}": query.legend for letter, query in zip("ABCDEFGHIJKL", panel.queries, strict=False)}
    if len(panel.queries) == 1:
        letters = {"Value": panel.queries[0].legend}
    order = {name: number for number, name in enumerate((*panel.labels, *letters))}
    organize = {"excludeByName": {"Time": True}, "renameByName": letters, "indexByName": order}
    builder = (
        table.Panel()
        .with_transformation(models.DataTransformerConfig(id_val="merge", options={}))
        .with_transformation(models.DataTransformerConfig(id_val="organize", options=organize))
    )
    for column, unit in panel.units.items():
        builder.override_by_name(column, [models.DynamicConfigValue("unit", unit)])
    if panel.link:
        link = {"title": "Open", "url": panel.link}
        builder.override_by_name(panel.labels[0], [models.DynamicConfigValue("links", [link])])
    return builder
