"""From charts to pictures: what a page shows, what a file holds, and the library that makes a picture interactive."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from sb3_pg.report.theme import Palette, chart_config

if TYPE_CHECKING:
    from types import ModuleType

    import altair as alt

INSTALL = "figures need altair and vl-convert-python: pip install 'sb3-pg[compare]'"
Spec: TypeAlias = "dict[str, Any]"
Datasets: TypeAlias = "dict[str, list[dict[str, Any]]]"


class Chart(Protocol):
    """Any altair chart."""

    def to_dict(self) -> Spec:
        """Its description in Vega-Lite."""


@dataclass(frozen=True)
class Panel:
    """One coordinate system of a figure.

    :param layers: all that is drawn
    :param hover: what is drawn on top where there is a pointer; its marks' tooltips are data with a field ``tip``, as
        :func:`sb3_pg.report.layers.tip` makes it
    :param height: pixels of the plot
    :param least_width: pixels of the whole panel below which it is not legible: a narrower page scrolls it
    """

    title: str
    layers: tuple[alt.Chart, ...]
    hover: tuple[alt.Chart, ...]
    height: int
    least_width: int = 0

    def drawn(self, is_interactive: bool) -> tuple[alt.Chart, ...]:
        """Its layers, with those for a pointer or without."""
        return (*self.layers, *self.hover) if is_interactive else self.layers


@dataclass(frozen=True)
class Panels:
    """A figure: small multiples with one legend, which a page lays out by the width that it has.

    :param datasets: what the panels are drawn from, by the names that their layers have for it
    :param legend: the series that the legend names; none if the figure says itself what is what
    :param columns: panels side by side in a file, and at most on a page
    :param has_points: whether the series are told apart by the shapes of points, and not by dashes alone
    """

    panels: tuple[Panel, ...]
    datasets: Datasets
    palette: Palette
    legend: tuple[str, ...]
    columns: int
    has_points: bool = False

    def chart(self, panel: Panel, is_interactive: bool) -> alt.LayerChart:
        """One of the panels, with its layers for a pointer or without."""
        altair, _ = _libraries()
        width = 560 if len(self.panels) == 1 else 250  # of the plot, in a file; a page has its own
        chart: alt.LayerChart = altair.layer(*panel.drawn(is_interactive))
        chart = chart.properties(title=panel.title, width=width, height=panel.height)
        made: alt.LayerChart = chart.add_params(
            # What a page's legend sets: the series switched off, and the one that is pointed at.
            altair.param(name="hidden", value=[]),
            altair.param(name="focus", value=""),
            altair.param(name="colors", value={name: self.palette.color(name) for name in self.palette.names}),
            altair.param(name="dashes", value={name: self.palette.dash(name) for name in self.palette.names}),
        )
        return made

    def data_of(self, panels: Iterable[Panel], is_interactive: bool) -> Datasets:
        """What some of the panels are drawn from."""
        names = {layer.data.name for panel in panels for layer in panel.drawn(is_interactive)}
        return {name: rows for name, rows in self.datasets.items() if name in names}


Drawable: TypeAlias = "Panels | Chart"


@dataclass(frozen=True)
class Picture:
    """What fills one cell of a page.

    :param spec: for the interactive picture
    :param svg: for whoever reads without JavaScript
    :param is_fluid: whether it can take any width
    :param least_width: but not less than this
    """

    spec: Spec
    svg: str
    is_fluid: bool
    least_width: int = 0


def pictures(chart: Drawable) -> list[Picture]:
    """One picture a panel, without legends: the page has its own. A foreign chart is one, and keeps what it has."""
    if not isinstance(chart, Panels):
        spec = _spec(chart.to_dict())
        return [Picture(spec, svg(spec), _is_fluid(spec))]

    def alone(panel: Panel, is_interactive: bool) -> Spec:
        spec = _without_legends(chart.chart(panel, is_interactive).to_dict(validate=False))
        return _spec(spec | {"datasets": chart.data_of([panel], is_interactive)})

    return [
        Picture(
            spec=alone(panel, is_interactive=True),
            svg=svg(alone(panel, is_interactive=False)),
            is_fluid=True,
            least_width=panel.least_width,
        )
        for panel in chart.panels
    ]


def whole(chart: Drawable) -> Spec:
    """The figure in one piece, with its legend, as it is written to a file."""
    if not isinstance(chart, Panels):
        return _spec(chart.to_dict())
    altair, _ = _libraries()
    panels = (chart.chart(panel, is_interactive=False) for panel in chart.panels)
    spec = altair.concat(*panels, columns=chart.columns).to_dict(validate=False)
    return _spec(spec | {"datasets": chart.data_of(chart.panels, is_interactive=False)})


def svg(spec: Spec, background: str | None = None) -> str:
    """A picture as SVG, in the light colours.

    :param background: nothing by default, as on a page
    """
    _, vl_convert = _libraries()
    config = chart_config() | {"background": background}
    text: str = vl_convert.vegalite_to_svg(spec, vl_version=_version(), config=config)
    return text


def png(drawn: str) -> bytes:
    """An SVG as PNG, twice as fine as it is large."""
    _, vl_convert = _libraries()
    data: bytes = vl_convert.svg_to_png(drawn, scale=2)
    return data


@lru_cache(maxsize=1)
def bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script without a network; it makes ``vegaEmbed`` known."""
    _, vl_convert = _libraries()
    script: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=_version())
    return script


def finite(value: Any) -> Any:
    """A copy in which nan and infinities are None: JSON has no word for them, and Vega leaves a gap."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _spec(chart: Spec) -> Spec:
    spec: Spec = finite(chart)
    # The library is one of the version that altair writes for, and would warn of any other name that it has.
    del spec["$schema"]
    return spec


def _without_legends(spec: Any) -> Any:
    if isinstance(spec, list):
        return [_without_legends(item) for item in spec]
    if not isinstance(spec, dict):
        return spec
    if "field" in spec and "legend" in spec:
        return spec | {"legend": None}
    return {key: _without_legends(item) for key, item in spec.items()}


def _is_fluid(spec: Spec) -> bool:
    composed = {"hconcat", "vconcat", "concat", "facet", "repeat"} & spec.keys()
    return not composed and not {"row", "column", "facet"} & spec.get("encoding", {}).keys()


def _libraries() -> tuple[ModuleType, ModuleType]:
    try:
        import altair
        import vl_convert
    except ImportError as error:
        raise ImportError(INSTALL) from error
    return altair, vl_convert


def _version() -> str:
    """Altair's version of Vega-Lite, as vl-convert has it: ``v6.1`` of ``v6.1.0``."""
    altair, _ = _libraries()
    return ".".join(altair.SCHEMA_VERSION.split(".")[:2])
