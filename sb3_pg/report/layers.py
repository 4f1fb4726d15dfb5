"""The layers that charts are made of: scales by the palette, what hides a series, what a pointer shows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, Literal

from sb3_pg.report.drawing import INSTALL, Datasets
from sb3_pg.report.series import Row, Rule, drawable
from sb3_pg.report.theme import Palette, light

try:
    import altair as alt
except ImportError as error:
    raise ImportError(INSTALL) from error


def chart(rows: Sequence[Row], datasets: Datasets) -> alt.Chart:
    """A chart of rows that are kept in ``datasets``, once: altair would copy them with every copy of the chart."""
    kept = [{key: value for key, value in row.items() if key != "text"} for row in rows]
    name = next((name for name, known in datasets.items() if known == kept), f"data-{len(datasets)}")
    datasets[name] = kept
    return alt.Chart(alt.NamedData(name))


def color(palette: Palette, legend: Sequence[str], symbol_size: int = 400) -> alt.Color:
    """The colour of a row's series, and its place in the legend: a line 20 pixels long, or a point that is smaller."""
    scale = alt.Scale(domain=list(palette.names), range=[palette.color(name) for name in palette.names])
    return alt.Color("series:N", scale=scale, legend=_legend(legend, symbol_size))


def dash(palette: Palette, legend: Sequence[str]) -> alt.StrokeDash:
    """The dash of a row's series."""
    scale = alt.Scale(domain=list(palette.names), range=[palette.dash(name) for name in palette.names])
    return alt.StrokeDash("series:N", scale=scale, legend=_legend(legend))


def shape(palette: Palette, legend: Sequence[str], symbol_size: int = 400) -> alt.Shape:
    """The symbol of a row's series."""
    scale = alt.Scale(domain=list(palette.names), range=[palette.shape(name) for name in palette.names])
    return alt.Shape("series:N", scale=scale, legend=_legend(legend, symbol_size))


def _legend(names: Sequence[str], symbol_size: int = 400) -> alt.Legend | None:
    if not names:
        return None
    # More than five names beside each other are wider than a page.
    return alt.Legend(title=None, values=list(names), columns=min(len(names), 5), symbolSize=symbol_size)


# The look of a row's series in a layer that the legend is not made of. With a scale of its own it would have to say so,
# and Vega-Lite takes a legend that one layer switches off for switched off in all that have the same names.
FILL = alt.FillValue(value=alt.ExprRef("colors[datum.series]"))
STROKE = alt.StrokeValue(value=alt.ExprRef("colors[datum.series]"))
DASH = alt.StrokeDashValue(value=alt.ExprRef("dashes[datum.series]"))


def opacity(full: float) -> Any:
    """Full, faint while another series is pointed at in the legend, nothing once this one is switched off."""
    faint = _off().when("focus && focus !== datum.series").then(alt.value(full * 0.15))
    return faint.otherwise(alt.value(full))


def opacity_at(pointed: alt.Parameter) -> Any:
    """Nothing but where the pointer is."""
    return _off().when(pointed).then(alt.value(1)).otherwise(alt.value(0))


def _off() -> Any:
    return alt.when("indexof(hidden, datum.series) >= 0").then(alt.value(0))


def scale(is_log: bool, limits: tuple[float, float] | None = None) -> alt.Scale:
    """A scale of numbers, which need not begin at 0."""
    if limits is not None:
        return alt.Scale(domain=list(limits), nice=False)
    return alt.Scale(type="log", nice=False, padding=10) if is_log else alt.Scale(zero=False)


def number_axis(channel: Literal["x", "y"], ticks: Sequence[float] = ()) -> alt.Axis:
    """An axis of numbers, in thousands and millions where they are large.

    :param ticks: where its labels are; by default Vega finds about five places
    """
    labels = "format(datum.value, abs(datum.value) >= 10000 ? '~s' : '~g')"
    places: Row = {"values": list(ticks)} if ticks else {"tickCount": 5}
    # Panels below each other have their axes below each other.
    extent: Row = {"minExtent": 34} if channel == "y" else {}
    return alt.Axis(labelExpr=labels, grid=channel == "y", labelOverlap=True, **places, **extent)


def log_ticks(values: Iterable[float | None]) -> list[float]:
    """1, 2 and 5 of each decade between the smallest and the largest of positive numbers, fewer if those are many."""
    there = [value for value in values if value is not None]
    if not there:
        return []
    decades = range(math.floor(math.log10(min(there))), math.ceil(math.log10(max(there))) + 1)

    def within(mantissas: Sequence[int], every: int = 1) -> list[float]:
        ticks = (mantissa * 10.0**k for k in decades if k % every == 0 for mantissa in mantissas)
        return [tick for tick in ticks if min(there) <= tick <= max(there)]

    some = within([1, 2, 5])
    return some if len(some) <= 9 else within([1], every=1 + len(decades) // 8)


def reference_lines(
    rules: Iterable[Rule], orient: Literal["horizontal", "vertical"], datasets: Datasets
) -> list[alt.Chart]:
    """Dashed lines across a panel, at values of y or of x, with a word at each."""
    rows = [{"at": rule.value, "label": rule.label} for rule in rules if drawable(rule.value) is not None]
    if not rows:
        return []
    base, muted = chart(rows, datasets), light("muted")
    line = base.mark_rule(strokeDash=[3, 3], color=muted)
    if orient == "horizontal":
        word = base.mark_text(color=muted, fontSize=10.5, align="left", dx=3, baseline="bottom", dy=-2)
        return [line.encode(y="at:Q"), word.encode(y="at:Q", x=alt.value(0), text="label:N")]
    word = base.mark_text(color=muted, fontSize=10.5, align="left", dx=3, baseline="top")
    return [line.encode(x="at:Q"), word.encode(x="at:Q", y=alt.value(0), text="label:N")]


def nothing_to_see(datasets: Datasets) -> alt.Chart:
    """What stands in a panel without a number to draw."""
    words: alt.Chart = chart([{}], datasets).mark_text(color=light("muted"), fontSize=13, text="no data")
    return words


def edges(xs: Sequence[float], is_log: bool) -> list[tuple[float, float]]:
    """Around each of the ascending ``xs`` the stretch of the axis that is nearer to it than to its neighbours."""

    def middle(a: float, b: float) -> float:
        return math.sqrt(a * b) if is_log else (a + b) / 2

    inner = [middle(a, b) for a, b in pairwise(xs)]
    return list(zip([xs[0], *inner], [*inner, xs[-1]], strict=True))


def tip(heading: str, rows: Sequence[tuple[str, str]]) -> Row:
    """What a pointer shows: rows of a series, or an empty name, and a text."""
    return {"heading": heading, "rows": [{"series": series, "text": text} for series, text in rows]}
