"""Charts from plain numbers. They know nothing of what the numbers mean; a caller's titles say it.

Every function returns :class:`~sb3_pg.report.drawing.Panels`, with one panel for each name in its data's ``panel``, and
takes the palette of the whole report, so that a series looks the same in all figures. Numbers that are not finite, and
those that a logarithmic axis cannot show, are gaps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from sb3_pg.report import layers
from sb3_pg.report.drawing import INSTALL, Datasets, Panel, Panels
from sb3_pg.report.series import Curve, Interval, Pair, Row, Rule, drawable, number, with_interval
from sb3_pg.report.theme import SERIES, Palette, light

try:
    import altair as alt
except ImportError as error:
    raise ImportError(INSTALL) from error

InPanel = TypeVar("InPanel", Curve, Interval)
ROW_HEIGHT, CELL_HEIGHT, CELL_WIDTH, PLOT_HEIGHT = 30, 44, 74, 190


def learning_curves(
    curves: Sequence[Curve], palette: Palette, *, x_title: str, y_title: str, rules: Sequence[Rule] = ()
) -> Panels:
    """Lines with bands over steps, seconds or updates, a panel a task.

    :param rules: thresholds and the like, at values of y
    """
    return _lines(curves, palette, _Axes(x_title, y_title), rules)


def profiles(curves: Sequence[Curve], palette: Palette, *, x_title: str, y_title: str) -> Panels:
    """Performance profiles: the share of runs that score more than x, against x, with bands (Agarwal et al. 2021)."""
    return _lines(curves, palette, _Axes(x_title, y_title, y_limits=(0.0, 1.0)))


def step_curves(curves: Sequence[Curve], palette: Palette, *, x_title: str, y_title: str) -> Panels:
    """Shares that stay as they are until the next event, as those of Kaplan and Meier, with bands."""
    return _lines(curves, palette, _Axes(x_title, y_title, y_limits=(0.0, 1.0)), is_step=True)


def error_bars(
    curves: Sequence[Curve],
    palette: Palette,
    *,
    x_title: str,
    y_title: str,
    is_x_log: bool = True,
    is_y_log: bool = False,
    rules: Sequence[Rule] = (),
) -> Panels:
    """Points with error bars: an estimate against the size of its sample, say.

    An interval that reaches below what a logarithmic axis can show ends at the smallest number of its panel.

    :param rules: at values of y
    """
    legend = _in_order((curve.series for curve in curves), palette)

    def draw(own: Sequence[Curve], axes: _Axes, datasets: Datasets) -> list[alt.Chart]:
        """The layers of one panel."""
        rows = [row for row in axes.rows(own) if row["y"] is not None]
        _close_intervals(rows)
        barred = [row for row in rows if row["low"] is not None and row["high"] is not None]
        base = layers.chart(rows, datasets).encode(x=axes.x(), y=axes.y())
        line = base.mark_line(strokeWidth=1.2).encode(
            detail="series:N", stroke=layers.STROKE, strokeDash=layers.DASH, opacity=layers.opacity(0.6)
        )
        points = base.mark_point(filled=True, size=60).encode(
            color=layers.color(palette, legend, symbol_size=90),
            shape=layers.shape(palette, legend, symbol_size=90),
            opacity=layers.opacity(1),
        )
        bars = layers.chart(barred, datasets).mark_rule(strokeWidth=1.5)
        bars = bars.encode(x=axes.x(), y=axes.y("low"), y2="high:Q", stroke=layers.STROKE)
        return [line, *([bars.encode(opacity=layers.opacity(1))] if barred else []), points]

    axes = _Axes(x_title, y_title, is_x_log, is_y_log)
    panels = _curve_panels(curves, palette, axes, legend, rules, draw)
    return replace(panels, has_points=True)


def intervals(
    estimates: Sequence[Interval], palette: Palette, *, x_title: str = "", rules: Sequence[Rule] = ()
) -> Panels:
    """Estimates with intervals, a row a series, a panel a metric (as in Agarwal et al. 2021).

    :param rules: at values of x
    """
    axes = _Axes(x_title, "")
    datasets: Datasets = {}
    panels = []
    for title, own in _by_panel(estimates):
        rows = [
            {
                "series": one.series,
                "x": drawable(one.value),
                "low": drawable(one.low),
                "high": drawable(one.high),
                "tip": layers.tip(title, [(one.series, with_interval(one.value, one.low, one.high))]),
            }
            for one in own
        ]
        names = _in_order((one.series for one in own), palette)
        y = alt.Y("series:N", title=None, sort=names, axis=alt.Axis(domain=False, ticks=False, labelLimit=200))
        base = layers.chart(rows, datasets).encode(y=y, color=layers.color(palette, ()))
        bar = base.mark_bar(height=10).encode(x=axes.x("low"), x2="high:Q", opacity=layers.opacity(0.35))
        drawn = [
            *([bar] if _have_intervals(rows) else []),
            base.mark_point(filled=True, size=80).encode(
                x=axes.x(), opacity=layers.opacity(1), shape=layers.shape(palette, ())
            ),
            *layers.reference_lines(_of_panel(rules, title), "vertical", datasets),
        ]
        whole_row = layers.chart(rows, datasets).mark_rect(opacity=0, tooltip=alt.TooltipContent("data")).encode(y=y)
        panels.append(Panel(title, tuple(drawn), (whole_row,), max(ROW_HEIGHT * len(names), 2 * ROW_HEIGHT)))
    return _arrange(panels, datasets, palette, ())


def pairs(compared: Sequence[Pair], palette: Palette, *, title: str, center: float = 0.5, fmt: str = ".2f") -> Panels:
    """A matrix of how one series stands to another: the probability that the row beats the column, say.

    Above the center a cell is blue, below it brown, the more so the further away; bold is what has its whole interval
    on one side.

    :param title: what a cell says of its row and column
    :param center: where neither of two is ahead
    :param fmt: the format of its numbers
    """
    names = _in_order((name for pair in compared for name in (pair.row, pair.column)), palette)
    reach = max((abs(pair.value - center) for pair in compared if drawable(pair.value) is not None), default=0) or 1
    rows = [_cell(pair, center, reach, fmt) for pair in compared if drawable(pair.value) is not None]
    side = alt.Y("row:N", title=None, sort=names, axis=alt.Axis(domain=False, ticks=False))
    top = alt.X("column:N", title=title, sort=names)
    top = top.axis(orient="top", domain=False, ticks=False, labelAngle=0, labelOverlap=False, labelLimit=CELL_WIDTH)
    datasets: Datasets = {}
    base = layers.chart(rows, datasets).encode(y=side, x=top)
    sides = alt.Scale(domain=["above", "below"], range=[SERIES[0][0], SERIES[1][0]])
    cells = base.mark_rect(cornerRadius=3, stroke=light("paper"), strokeWidth=2).encode(
        fill=alt.Fill("side:N", scale=sides, legend=None), fillOpacity=alt.FillOpacity("strength:Q", scale=None)
    )
    weight = alt.ExprRef("datum.is_clear ? 'bold' : 'normal'")
    estimate = base.mark_text(fontSize=13, dy=-6, color=light("ink"), fontWeight=weight).encode(text="estimate:N")
    interval = base.mark_text(fontSize=9.5, dy=9, color=light("ink")).encode(text="interval:N")
    pointed = base.mark_rect(opacity=0, tooltip=alt.TooltipContent("data"))
    height, least_width = CELL_HEIGHT * max(len(names), 2), 100 + CELL_WIDTH * len(names)
    panel = Panel("", (cells, estimate, interval), (pointed,), height, least_width)
    return _arrange([panel] if rows else [], datasets, palette, ())


def _cell(pair: Pair, center: float, reach: float, fmt: str) -> Row:
    text = with_interval(pair.value, pair.low, pair.high, fmt)
    low, high = drawable(pair.low), drawable(pair.high)
    return {
        "row": pair.row,
        "column": pair.column,
        "side": "above" if pair.value >= center else "below",
        "strength": 0.05 + 0.5 * abs(pair.value - center) / reach,
        "estimate": format(pair.value, fmt),
        "interval": text.partition(" ")[2],
        "is_clear": low is not None and high is not None and not low <= center <= high,
        "tip": layers.tip(f"{pair.row} to {pair.column}", [("", text)]),
    }


@dataclass(frozen=True)
class _Axes:
    """What the panels of a figure have in common."""

    x_title: str
    y_title: str
    is_x_log: bool = False
    is_y_log: bool = False
    y_limits: tuple[float, float] | None = None
    x_ticks: Sequence[float] = ()
    y_ticks: Sequence[float] = ()

    def of(self, curves: Sequence[Curve]) -> _Axes:
        """The axes of one panel: where an axis is logarithmic, the labels depend on what is there."""
        rows = self.rows(curves)
        x_ticks = layers.log_ticks(row["x"] for row in rows) if self.is_x_log else ()
        y_ticks = layers.log_ticks(row[key] for row in rows for key in ("y", "low", "high")) if self.is_y_log else ()
        return replace(self, x_ticks=x_ticks, y_ticks=y_ticks)

    def x(self, field: str = "x") -> alt.X:
        scale = layers.scale(self.is_x_log)
        return alt.X(f"{field}:Q", title=self.x_title or None, scale=scale, axis=layers.number_axis("x", self.x_ticks))

    def y(self, field: str = "y") -> alt.Y:
        scale = layers.scale(self.is_y_log, self.y_limits)
        return alt.Y(f"{field}:Q", title=self.y_title or None, scale=scale, axis=layers.number_axis("y", self.y_ticks))

    def rows(self, curves: Sequence[Curve]) -> list[Row]:
        return [row for curve in curves for row in curve.points(self.is_x_log, self.is_y_log)]


def _lines(
    curves: Sequence[Curve], palette: Palette, axes: _Axes, rules: Sequence[Rule] = (), is_step: bool = False
) -> Panels:
    legend = _in_order((curve.series for curve in curves), palette)
    interpolate = "step-after" if is_step else "linear"

    def draw(own: Sequence[Curve], axes: _Axes, datasets: Datasets) -> list[alt.Chart]:
        """The layers of one panel."""
        rows = axes.rows(own)
        base = layers.chart(rows, datasets).encode(x=axes.x())
        band = base.mark_area(interpolate=interpolate).encode(
            y=axes.y("low"), y2="high:Q", detail="series:N", fill=layers.FILL, opacity=layers.opacity(0.16)
        )
        line = base.mark_line(interpolate=interpolate, strokeWidth=2).encode(
            y=axes.y(),
            color=layers.color(palette, legend),
            strokeDash=layers.dash(palette, legend),
            opacity=layers.opacity(1),
        )
        drawn = [band, line] if _have_intervals(rows) else [line]
        alone = [row for row in rows if row["is_alone"] and row["y"] is not None]
        if alone:  # a point between two gaps is no line
            points = layers.chart(alone, datasets).mark_point(filled=True, size=30)
            fill, opacity = layers.FILL, layers.opacity(1)
            drawn.append(points.encode(x=axes.x(), y=axes.y(), fill=fill, opacity=opacity))
        return drawn

    return _curve_panels(curves, palette, axes, legend, rules, draw, is_step)


def _curve_panels(
    curves: Sequence[Curve],
    palette: Palette,
    axes: _Axes,
    legend: Sequence[str],
    rules: Sequence[Rule],
    draw: Callable[[Sequence[Curve], _Axes, Datasets], list[alt.Chart]],
    is_step: bool = False,
) -> Panels:
    datasets: Datasets = {}
    panels = []
    groups = _by_panel(curves)
    height = PLOT_HEIGHT if len(groups) > 1 else 300
    for title, own in groups:
        if all(row["y"] is None for row in axes.rows(own)):
            panels.append(Panel(title, (layers.nothing_to_see(datasets),), (), height))
            continue
        here = axes.of(own)
        drawn = draw(own, here, datasets)
        drawn += layers.reference_lines(_of_panel(rules, title), "horizontal", datasets)
        hover = _hover(own, palette, here, is_step, datasets)
        panels.append(Panel(title, tuple(drawn), hover, height))
    return _arrange(panels, datasets, palette, legend)


def _hover(
    curves: Sequence[Curve],
    palette: Palette,
    axes: _Axes,
    is_step: bool,
    datasets: Datasets,
) -> tuple[alt.Chart, ...]:
    """A line and points at the x that is nearest to the pointer, and what all series are there."""
    rows = [row for row in axes.rows(curves) if row["y"] is not None]
    xs = sorted({row["x"] for row in rows})
    at = alt.selection_point(name="at", fields=["x"], on="pointerover", clear="pointerout", empty=False)
    strips = [
        {
            "x": x,
            "start": drawable(start),
            "end": drawable(end),
            "tip": layers.tip(f"{axes.x_title}: {number(x)}", texts),
        }
        for x, (start, end), texts in zip(xs, layers.edges(xs, axes.is_x_log), _texts(rows, xs, is_step), strict=True)
    ]
    base = layers.chart(strips, datasets)
    line = base.mark_rule(color=light("muted")).encode(x=axes.x(), opacity=layers.opacity_at(at))
    points = layers.chart(rows, datasets).mark_point(filled=True, size=50)
    # The stroke gives a strip without a width, that of a single x, something to be pointed at.
    strip = base.mark_rect(opacity=0, stroke=light("muted"), strokeWidth=6, tooltip=alt.TooltipContent("data"))
    return (
        line,
        points.encode(x=axes.x(), y=axes.y(), fill=layers.FILL, opacity=layers.opacity_at(at)),
        strip.encode(x=axes.x("start"), x2="end:Q").properties(name="strips").add_params(at),
    )


def _texts(rows: Sequence[Row], xs: Sequence[float], is_step: bool) -> list[list[tuple[str, str]]]:
    """What every series is at each x; a step curve stays what it was."""
    order = list(dict.fromkeys(row["series"] for row in rows))
    at = {(row["series"], row["x"]): row["text"] for row in rows}
    texts, last = [], dict[str, str]()
    for x in xs:
        here = {series: at[series, x] for series in order if (series, x) in at}
        last = {**last, **here} if is_step else here
        texts.append([(series, last[series]) for series in order if series in last])
    return texts


def _have_intervals(rows: Sequence[Row]) -> bool:
    """Whether there is anything to draw of intervals: of a layer without a number Vega would warn in the console."""
    return any(row["low"] is not None and row["high"] is not None for row in rows)


def _close_intervals(rows: Sequence[Row]) -> None:
    """Give the intervals that reach out of a logarithmic axis an end on it."""
    floor = min((row[key] for row in rows for key in ("y", "low", "high") if row[key] is not None), default=None)
    for row in rows:
        if row["low"] is None and row["high"] is not None:
            row["low"] = floor


def _by_panel(drawn: Sequence[InPanel]) -> list[tuple[str, list[InPanel]]]:
    groups: dict[str, list[InPanel]] = {}
    for one in drawn:
        groups.setdefault(one.panel, []).append(one)
    return list(groups.items())


def _of_panel(rules: Sequence[Rule], title: str) -> list[Rule]:
    return [rule for rule in rules if rule.panel in ("", title)]


def _in_order(names: Iterable[str], palette: Palette) -> list[str]:
    """Each of the names once, as the palette has them."""
    return sorted(set(names), key=palette.index)


def _arrange(panels: Sequence[Panel], datasets: Datasets, palette: Palette, legend: Sequence[str]) -> Panels:
    panels = panels or [Panel("", (layers.nothing_to_see(datasets),), (), 60)]
    columns = min(len(panels), 2 if len(panels) == 4 else 3)
    return Panels(tuple(panels), datasets, palette, tuple(legend), columns)
