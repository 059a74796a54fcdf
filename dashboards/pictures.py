"""Draws the dashboards' files with what a Prometheus knows, for the docs: a plain look at what Grafana shows.

python -m dashboards.pictures URL FOLDER --seconds 300
"""

import argparse
import io
import json
import re
import time
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from PIL import Image

from dashboards.panels import MAY_BE_EMPTY
from dashboards.queries import EVERYTHING, filled
from dashboards.render import FOLDER

matplotlib.use("Agg")
Series = dict[str, Any]

_COLUMN, _UNIT_HEIGHT = 0.56, 0.3  # inches of Grafana's grid
_DPI, _COLORS = 80, 64
_STEPS = 120
_LEGENDS = 6
_COLORS_OF = {"green": "#299c46", "orange": "#ed8128", "red": "#d44a3a"}
_PALETTE = (
    "#7eb26d",
    "#eab839",
    "#6ed0e0",
    "#ef843c",
    "#e24d42",
    "#1f78c1",
    "#ba43a9",
    "#705da0",
    "#508642",
    "#cca300",
)


class Source:
    """A Prometheus, asked for a span of time that has ended."""

    def __init__(self, url: str, seconds: int, end: float) -> None:
        self.url, self.seconds, self.end = url, seconds, end

    def instant(self, expression: str) -> list[Series]:
        return self._get("query", query=self._filled(expression), time=self.end)

    def span(self, expression: str) -> list[Series]:
        step = max(1.0, self.seconds / _STEPS)
        start = self.end - self.seconds
        return self._get("query_range", query=self._filled(expression), start=start, end=self.end, step=step)

    def _filled(self, expression: str) -> str:
        return filled(expression, EVERYTHING, rate_seconds=max(15, self.seconds // 20), range_seconds=self.seconds)

    def _get(self, what: str, **query: object) -> list[Series]:
        data = urllib.parse.urlencode({name: str(value) for name, value in query.items()}).encode()
        with urllib.request.urlopen(f"{self.url}/api/v1/{what}", data, timeout=30) as answer:
            found: list[Series] = json.load(answer)["data"]["result"]
            return found


def drawn(document: dict[str, Any], source: Source) -> Image.Image:
    panels = document["panels"]
    height = max(each["gridPos"]["y"] + each["gridPos"]["h"] for each in panels)
    figure = Figure((24 * _COLUMN, (height + 1.6) * _UNIT_HEIGHT), dpi=_DPI, facecolor="#f4f5f5")
    figure.text(0.008, 1 - 0.9 / (height + 1.6), document["title"], fontsize=13, weight="bold", va="center")
    for panel in panels:
        _draw(figure, panel, source, height + 1.6)
    data = io.BytesIO()
    figure.savefig(data, format="png")
    return Image.open(data).convert("RGB").quantize(_COLORS)


def _draw(figure: Figure, panel: dict[str, Any], source: Source, rows: float) -> None:
    place = panel["gridPos"]
    left, width = place["x"] / 24, place["w"] / 24
    top = 1 - (place["y"] + 1.6) / rows
    if panel["type"] == "row":
        figure.text(left + 0.008, top - 0.5 / rows, panel["title"], fontsize=10, weight="bold", va="center")
        return
    low = top - place["h"] / rows
    card = figure.add_axes((left + 0.003, low + 0.1 / rows, width - 0.006, (place["h"] - 0.2) / rows))
    card.set_facecolor("white")
    card.set_xticks([])
    card.set_yticks([])
    for spine in card.spines.values():
        spine.set_color("#d8d9da")
    figure.text(left + 0.008, top - 0.65 / rows, panel["title"], fontsize=8, weight="bold", va="center")
    match panel["type"]:
        case "stat":
            shown = _draw_stat(card, panel, source)
        case "table":
            shown = _draw_table(card, panel, source, place["h"])
        case _:
            inner = (left + 0.043, low + 2.2 / rows, width - 0.055, (place["h"] - 3.5) / rows)
            shown = _draw_graph(figure.add_axes(inner), panel, source)
    if not shown:
        words = panel["description"].partition(MAY_BE_EMPTY)[2] or "no data"
        middle = top - 0.5 * place["h"] / rows
        figure.text(left + width / 2, middle, words, fontsize=7.5, color="#8e8e8e", ha="center", va="center", zorder=9)


def _unit(panel: dict[str, Any]) -> str:
    return str(panel["fieldConfig"]["defaults"].get("unit", "short"))


def _draw_stat(card: Axes, panel: dict[str, Any], source: Source) -> bool:
    found = [
        (_legend(target["legendFormat"], series), float(series["value"][1]))
        for target in panel["targets"]
        for series in source.instant(target["expr"])
    ]
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    for number, (name, value) in enumerate(found):
        x, text = (number + 0.5) / len(found), formatted(value, _unit(panel))
        reached = [step["color"] for step in steps if step["value"] is None or value >= step["value"]]
        card.text(x, 0.42, text, fontsize=16, color=_COLORS_OF[reached[-1]], ha="center", va="center")
        if len(panel["targets"]) > 1:
            card.text(x, 0.14, name, fontsize=7, color="#555555", ha="center", va="center")
    return bool(found)


def _draw_table(card: Axes, panel: dict[str, Any], source: Source, height: int) -> bool:
    organize = next(each["options"] for each in panel["transformations"] if each["id"] == "organize")
    names = organize["renameByName"]
    columns = sorted(organize["indexByName"], key=organize["indexByName"].__getitem__)
    units = {
        each["matcher"]["options"]: prop["value"]
        for each in panel["fieldConfig"]["overrides"]
        for prop in each["properties"]
        if prop["id"] == "unit"
    }
    titles = [column for column in columns if column not in (*names, *names.values())]
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    for target in panel["targets"]:
        title = names.get(f"Value #{target['refId']}") or names.get("Value", "Value")
        for series in source.instant(target["expr"]):
            key = tuple(series["metric"].get(label, "") for label in titles)
            unit = units.get(title, _unit(panel))
            rows.setdefault(key, {})[title] = formatted(float(series["value"][1]), unit)
    shown = [*titles, *names.values()]
    weights = [2.0 if number == 0 else 1.0 for number in range(len(shown))]
    starts = [0.012 + sum(weights[:number]) / sum(weights) for number in range(len(shown))]
    characters = card.get_position().width * 24 * _COLUMN * 13 / sum(weights)
    for number, column in enumerate(shown):
        card.text(starts[number], 0.80, column, fontsize=7, color="#1f78c1", va="center")
    for line, (key, values) in enumerate(sorted(rows.items())[: height - 3]):
        y = 0.68 - line * 0.11 * 7 / height
        cells = [*key, *(values.get(column, "") for column in names.values())]
        for number, text in enumerate(cells):
            card.text(starts[number], y, text[: int(characters * weights[number])], fontsize=7, va="center")
    return bool(rows)


def _draw_graph(axes: Axes, panel: dict[str, Any], source: Source) -> bool:
    stacked = panel["fieldConfig"]["defaults"].get("custom", {}).get("stacking", {}).get("mode") == "normal"
    lines: list[tuple[str, dict[float, float]]] = []
    for target in panel["targets"]:
        for series in source.span(target["expr"]):
            points = {float(at): float(value) for at, value in series["values"] if value not in ("NaN", "+Inf")}
            if points:
                lines.append((_legend(target["legendFormat"], series), points))
    lines.sort(key=lambda each: each[0])
    times = sorted({at for _, points in lines for at in points})
    colors = [_PALETTE[number % len(_PALETTE)] for number in range(len(lines))]
    if stacked and lines:
        values = [[points.get(at, 0.0) for at in times] for _, points in lines]
        axes.stackplot(times, values, colors=colors, alpha=0.75, labels=[name for name, _ in lines])
    else:
        for (name, points), color in zip(lines, colors, strict=True):
            axes.plot(list(points), list(points.values()), color=color, linewidth=1.2, label=name)
    axes.set_xlim(source.end - source.seconds, source.end)
    axes.set_ylim(bottom=0)
    axes.set_facecolor("white")
    axes.grid(visible=True, color="#e8e8e8", linewidth=0.5)
    axes.tick_params(labelsize=6, length=0, colors="#555555")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: formatted(value, _unit(panel))))
    axes.yaxis.get_major_locator().set_params(nbins=4)  # type: ignore[call-arg]
    axes.set_xticks([source.end - source.seconds * part for part in (0.75, 0.25)])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _: time.strftime("%H:%M:%S", time.gmtime(at))))
    for spine in axes.spines.values():
        spine.set_visible(False)
    if lines:
        handles, names = axes.get_legend_handles_labels()
        axes.legend(
            handles[:_LEGENDS], [_short(name) for name in names[:_LEGENDS]], fontsize=6, frameon=False, ncols=3,
            loc="upper left", bbox_to_anchor=(-0.1, -0.12), handlelength=1, columnspacing=1, labelcolor="#555555",
        )  # fmt: skip
    return bool(lines)


def _short(name: str) -> str:
    """Pods' names differ at their ends."""
    return name if len(name) <= 26 else f"…{name[-25:]}"


def _legend(template: str, series: Series) -> str:
    text = _filled_legend(template, series)
    return f" {text}" if text.startswith("_") else text  # matplotlib leaves those out


def _filled_legend(template: str, series: Series) -> str:
    if template == "__auto":
        return ", ".join(value for name, value in series["metric"].items() if name != "__name__")
    return re.sub(r"{{(\w+)}}", lambda found: series["metric"].get(found[1], ""), template)


def formatted(value: float, unit: str) -> str:
    """As Grafana writes a number of this unit, roughly."""
    if value != value:
        return "–"
    match unit:
        case "percentunit":
            return f"{100 * value:.3g} %"
        case "s":
            return _seconds(value)
        case "bytes" | "Bps":
            return _scaled(value, ("B", "KiB", "MiB", "GiB", "TiB"), 1024) + ("/s" if unit == "Bps" else "")
        case "currencyUSD":
            return f"${value:,.3g}"
        case "h":
            return f"{value:.3g} h"
        case "reqps" | "ops" | "tok/s":
            return _scaled(value, ("", " K", " M"), 1000) + {"reqps": " req/s", "ops": " /s"}.get(unit, " tok/s")
    return _scaled(value, ("", " K", " M", " G"), 1000)


def _seconds(value: float) -> str:
    for limit, factor, name in ((1e-3, 1e6, "µs"), (1, 1e3, "ms"), (120, 1, "s"), (7200, 1 / 60, "min")):
        if abs(value) < limit:
            return f"{value * factor:.3g} {name}" if value else "0 s"
    return f"{value / 3600:.3g} h"


def _scaled(value: float, names: Sequence[str], step: float) -> str:
    for name in names[:-1]:
        if abs(value) < step:
            return f"{_digits(value)}{'' if name.startswith(' ') or not name else ' '}{name}"
        value /= step
    return f"{_digits(value)} {names[-1].strip()}"


def _digits(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def write_all(url: str, folder: Path, seconds: int, end: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(FOLDER.glob("*.json")):
        picture = drawn(json.loads(path.read_text()), Source(url, seconds, end))
        picture.save(folder / f"dashboard-{path.stem.removeprefix('ams-')}.png", optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the dashboards with what a Prometheus knows.")
    parser.add_argument("url", help="of Prometheus")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=int, default=300)
    given = parser.parse_args()
    write_all(given.url, given.folder, given.seconds, time.time())


if __name__ == "__main__":
    main()
