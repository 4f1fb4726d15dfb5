"""The layers that charts are made of: scales by the palette, what hides a series, what a pointer shows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from sb3_pg.report.drawing import INSTALL
from sb3_pg.report.series import Row, Rule, drawable
from sb3_pg.report.theme import Palette, light

try:
    import altair as alt
except ImportError as error:
    raise ImportError(INSTALL) from error



def data(rows: Sequence[Row]) -> alt.Data:
    """Rows inside of the chart, without the texts that only its tooltips need."""
    return alt.Data(values=[{key: value for key, value in row.items() if key != "text"} for row in rows])


def color(palette: Palette, legend: Sequence[str]) -> alt.Color:
    """The colour of a row's series."""
    scale = alt.Scale(domain=list(palette.names), range=[palette.color(name) for name in palette.names])
    return alt.Color("series:N", scale=scale, legend=_legend(legend))


def dash(palette: Palette, legend: Sequence[str]) -> alt.StrokeDash:
    """The dash of a row's series."""
    scale = alt.Scale(domain=list(palette.names), range=[palette.dash(name) for name in palette.names])
    return alt.StrokeDash("series:N", scale=scale, legend=_legend(legend))


def shape(palette: Palette, legend: Sequence[str]) -> alt.Shape:
    """The symbol of a row's series."""
    scale = alt.Scale(domain=list(palette.names), range=[palette.shape(name) for name in palette.names])
    return alt.Shape("series:N", scale=scale, legend=_legend(legend))


def _legend(names: Sequence[str]) -> alt.Legend | None:
    # More than five names beside each other are wider than a page.
    return alt.Legend(values=list(names), columns=min(len(names), 5)) if names else None


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
    return alt.Scale(type="log") if is_log else alt.Scale(zero=False)


def number_axis(channel: Literal["x", "y"], is_log: bool) -> alt.Axis:
    """An axis of numbers, with as many labels as there is room for: 20k instead of 20,000."""
    room = alt.ExprRef(f"ceil({'width / 60' if channel == 'x' else 'height / 40'})")
    labels = "format(datum.value, abs(datum.value) >= 10000 ? '~s' : '~g')"
    return alt.Axis(tickCount=room, labelExpr=labels, grid=channel == "y", labelOverlap=True, labelFlush=not is_log)


def reference_lines(rules: Iterable[Rule], orient: Literal["horizontal", "vertical"]) -> list[alt.Chart]:
    """Dashed lines across a panel, at values of y or of x, with a word at each."""
    rows = [{"at": rule.value, "label": rule.label} for rule in rules if drawable(rule.value) is not None]
    if not rows:
        return []
    base, muted = alt.Chart(data(rows)), light("muted")
    line = base.mark_rule(strokeDash=[3, 3], color=muted)
    if orient == "horizontal":
        word = base.mark_text(color=muted, fontSize=10.5, align="left", dx=3, baseline="bottom", dy=-2)
        return [line.encode(y="at:Q"), word.encode(y="at:Q", x=alt.value(0), text="label:N")]
    word = base.mark_text(color=muted, fontSize=10.5, align="left", dx=3, baseline="top")
    return [line.encode(x="at:Q"), word.encode(x="at:Q", y=alt.value(0), text="label:N")]


def nothing_to_see() -> alt.Chart:
    """What stands in a panel without a number to draw."""
    return alt.Chart(data([{}])).mark_text(color=light("muted"), fontSize=13, text="no data")


def edges(xs: Sequence[float], is_log: bool) -> list[tuple[float, float]]:
    """Around each of the ascending ``xs`` the stretch of the axis that is nearer to it than to its neighbours."""

    def middle(a: float, b: float) -> float:
        return math.sqrt(a * b) if is_log else (a + b) / 2

    inner = [middle(a, b) for a, b in zip(xs, xs[1:], strict=False)]
    return list(zip([xs[0], *inner], [*inner, xs[-1]], strict=True))


def tip(heading: str, rows: Sequence[tuple[str, str]]) -> Row:
    """What a pointer shows: rows of a series, or an empty name, and a text."""
    return {"heading": heading, "rows": [{"series": series, "text": text} for series, text in rows]}
