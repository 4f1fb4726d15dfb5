"""Charts as descriptions: what is drawn, what a pointer is told, what becomes of numbers that cannot be drawn."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import combinations
from typing import Any

import altair as alt
import numpy as np
import pytest

from sb3_pg.report import Palette, charts, drawing, layers
from sb3_pg.report.drawing import Panels, Spec
from sb3_pg.report.page import figures
from sb3_pg.report.series import Curve, Interval, Pair, Rule, number, with_interval
from sb3_pg.report.theme import DASHES, SERIES, SHAPES, TONES
from tests.report.example import example_page

NAN, INF = float("nan"), float("inf")
PALETTE = Palette(["a", "b", "c"])
TITLES: dict[str, Any] = {"x_title": "x", "y_title": "y"}


def rows(chart: Panels) -> list[dict[str, Any]]:
    """Whatever the panels are drawn from."""
    return [row for data in chart.datasets.values() for row in data]


def tips(chart: Panels) -> list[Any]:
    return [row["tip"] for row in rows(chart) if "tip" in row]


@pytest.mark.parametrize("figure", figures(example_page()), ids=lambda figure: figure.name)
def test_altair_finds_every_chart_valid(figure: Any) -> None:
    for panel in figure.chart.panels:
        figure.chart.chart(panel, is_interactive=True).to_dict(validate=True)


def test_a_gap_stays_a_gap_and_all_is_json() -> None:
    curve = Curve("a", [0, 1, 2, 3], [1.0, NAN, INF, 4.0], [0, NAN, -INF, 3.0], [2, NAN, INF, 5.0])
    chart = charts.learning_curves([curve], PALETTE, **TITLES)
    drawn = next(data for data in chart.datasets.values() if len(data) == 4 and "low" in data[0])
    assert [row["y"] for row in drawn] == [1.0, None, None, 4.0]
    assert [row["low"] for row in drawn] == [0.0, None, None, 3.0]
    assert [row["is_alone"] for row in drawn] == [True, False, False, True]
    for picture in drawing.pictures(chart):
        json.dumps(picture.spec, allow_nan=False)
        assert "NaN" not in picture.svg
    # Two pieces of a line instead of one across the gap.
    line = re.findall(r'class="mark-line[^>]*>.*?d="([^"]*)"', drawing.pictures(chart)[0].svg)
    assert [path.count("M") for path in line] == [2]


def test_a_pointer_is_told_all_series_at_an_x() -> None:
    curves = [Curve("b", [0, 1], [10, 20], [9, 19], [11, 21]), Curve("a", [1, 2], [1, 2])]
    told = tips(charts.learning_curves(curves, PALETTE, x_title="steps", y_title="return"))
    assert [tip["heading"] for tip in told] == ["steps: 0", "steps: 1", "steps: 2"]
    assert told[1]["rows"] == [{"series": "b", "text": "20 [19, 21]"}, {"series": "a", "text": "1"}]
    assert [len(tip["rows"]) for tip in told] == [1, 2, 1]


@pytest.mark.parametrize(
    "figure",
    [
        lambda: charts.learning_curves([Curve("a", [0, 1], [1, 2])], PALETTE, **TITLES),
        lambda: charts.intervals([Interval("a", 1.0), Interval("b", 2.0, NAN, NAN)], PALETTE),
    ],
)
def test_without_intervals_there_is_no_layer_of_them(figure: Callable[[], Panels]) -> None:
    """Vega would warn of one that has no number, in the console of whoever reads the page."""
    (panel,) = figure().panels
    assert not {"area", "bar"} & {layer.to_dict(validate=False)["mark"]["type"] for layer in panel.layers}


def test_a_step_curve_stays_what_it_was() -> None:
    curves = [Curve("a", [0, 5], [0, 0.5]), Curve("b", [0, 2, 9], [0, 1, 1])]
    told = tips(charts.step_curves(curves, PALETTE, **TITLES))
    assert [[row["text"] for row in tip["rows"]] for tip in told] == [
        ["0", "0"],
        ["0", "1"],
        ["0.5", "1"],
        ["0.5", "1"],
    ]


def test_an_interval_that_leaves_a_logarithmic_axis_ends_on_it() -> None:
    curve = Curve("a", [1, 10, 100], [1.0, 0.5, -1.0], [0.2, -0.1, -2.0], [2.0, 1.0, 1.0])
    chart = charts.error_bars([curve], PALETTE, is_y_log=True, **TITLES)
    drawn = next(data for data in chart.datasets.values() if "low" in data[0])
    assert [(row["x"], row["y"], row["low"]) for row in drawn] == [(1, 1.0, 0.2), (10, 0.5, 0.2)]
    assert tips(chart)[1]["rows"] == [{"series": "a", "text": "0.5 [-0.1, 1]"}]


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([1, 64], [1, 2, 5, 10, 20, 50]),
        ([0.3, 4, None], [0.5, 1, 2]),
        ([1e-6, 1e6], [1e-6, 1e-4, 1e-2, 1, 1e2, 1e4, 1e6]),
        ([], []),
    ],
)
def test_labels_of_a_logarithmic_axis(values: list[float | None], ticks: list[float]) -> None:
    np.testing.assert_allclose(layers.log_ticks(values), ticks)


def test_strips_cover_the_axis_between_them() -> None:
    assert layers.edges([0, 1, 3], is_log=False) == [(0, 0.5), (0.5, 2), (2, 3)]
    assert layers.edges([1, 100], is_log=True) == [(1, 10), (10, 100)]
    assert layers.edges([7], is_log=False) == [(7, 7)]


def test_panels_follow_the_data_and_rules_their_panels() -> None:
    curves = [Curve("a", [0, 1], [0, 1], panel=panel) for panel in ("t2", "t1", "t2")]
    rules = [Rule(0.5, "everywhere"), Rule(0.7, "only here", "t1"), Rule(NAN, "nowhere")]
    chart = charts.learning_curves(curves, PALETTE, rules=rules, **TITLES)
    assert [panel.title for panel in chart.panels] == ["t2", "t1"]
    pictures = drawing.pictures(chart)
    assert ["only here" in picture.svg for picture in pictures] == [False, True]
    assert all("everywhere" in picture.svg and "nowhere" not in picture.svg for picture in pictures)


def test_a_matrix_says_which_side_is_ahead() -> None:
    chart = charts.pairs(
        [Pair("a", "b", 0.8, 0.6, 0.9), Pair("b", "a", 0.2, 0.1, 0.55), Pair("a", "c", NAN)], PALETTE, title="beats"
    )
    cells = [(row["side"], row["is_clear"], row["estimate"], row["interval"]) for row in rows(chart)]
    assert cells == [("above", True, "0.80", "[0.60, 0.90]"), ("below", False, "0.20", "[0.10, 0.55]")]


@pytest.mark.parametrize(
    "make",
    [
        lambda: charts.learning_curves([], PALETTE, **TITLES),
        lambda: charts.learning_curves([Curve("a", [], [])], PALETTE, **TITLES),
        lambda: charts.profiles([Curve("a", [1, 2], [NAN, NAN])], PALETTE, **TITLES),
        lambda: charts.error_bars([Curve("a", [-1, 0], [1, 1])], PALETTE, **TITLES),
        lambda: charts.intervals([], PALETTE),
        lambda: charts.pairs([], PALETTE, title=""),
        lambda: charts.pairs([Pair("a", "b", NAN)], PALETTE, title=""),
    ],
)
def test_where_there_is_nothing_to_draw_a_figure_says_so(make: Callable[[], Panels]) -> None:
    (picture,) = drawing.pictures(make())
    assert "no data" in picture.svg


def test_intervals_without_numbers_keep_their_rows() -> None:
    chart = charts.intervals([Interval("a", NAN), Interval("b", 1.0), Interval("c", 2.0, NAN, NAN)], PALETTE)
    (picture,) = drawing.pictures(chart)
    assert all(f">{name}</text>" in picture.svg for name in "abc")
    assert [tip["rows"][0]["text"] for tip in tips(chart)] == ["nan", "1", "2"]


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: Curve("a", [0, 1], [0]), "x, y, low and high should be of one length"),
        (lambda: Curve("a", [[0]], [[0]]), "of one length"),
        (lambda: Curve("a", [0], [0], low=[0]), "low and high, or none"),
        (lambda: Curve("a", [1, 0], [0, 1]), "x should ascend"),
        (lambda: Palette(["a", "b", "a"]), "'a' is there twice"),
        (lambda: charts.learning_curves([Curve("z", [0], [0])], PALETTE, **TITLES), "no series 'z' .* it has a, b, c"),
        (lambda: charts.intervals([Interval("z", 0)], PALETTE), "no series 'z'"),
        (lambda: charts.pairs([Pair("a", "z", 0)], PALETTE, title=""), "no series 'z'"),
    ],
)
def test_wrong_data_is_refused_in_one_line(make: Callable[[], object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("value", "text"), [(12345.6, "12,346"), (0.123456, "0.1235"), (-2.0, "-2"), (NAN, "nan")])
def test_numbers_for_a_reader(value: float, text: str) -> None:
    assert number(value) == text
    assert with_interval(value, None, 1.0) == text


def test_a_chart_of_somebody_else_keeps_what_it_has() -> None:
    data = alt.Data(values=[{"u": 1, "v": NAN, "w": "x"}, {"u": 2, "v": 3, "w": "y"}])
    chart = alt.Chart(data).mark_point().encode(x="u:Q", y="v:Q", color="w:N")
    (picture,) = drawing.pictures(chart)
    assert picture.is_fluid and ">w</text>" in picture.svg
    assert [row["v"] for row in picture.spec["data"]["values"]] == [None, 3]
    (beside,) = drawing.pictures(chart | chart)
    assert not beside.is_fluid


def test_the_legend_is_in_a_file_and_not_in_the_pictures_of_a_page() -> None:
    curves = [Curve(name, [0, 1], [0, 1], panel=panel) for panel in ("p", "q") for name in ("b", "a")]
    for chart in (charts.learning_curves(curves, PALETTE, **TITLES), charts.error_bars(curves, PALETTE, **TITLES)):
        assert chart.legend == ("a", "b")
        assert _legend_labels(drawing.svg(drawing.whole(chart))) == ["a", "b"]
        assert [_legend_labels(picture.svg) for picture in drawing.pictures(chart)] == [[], []]


def _legend_labels(svg: str) -> list[str]:
    return re.findall(r'role-legend-label"[^>]*><text[^>]*>([^<]*)', svg)


def test_series_look_the_same_in_all_figures_whatever_is_in_them() -> None:
    def look(spec: Spec, name: str) -> str:
        colors = next(param["value"] for param in spec["params"] if param["name"] == "colors")
        return str(colors[name])

    one = drawing.whole(charts.profiles([Curve("c", [0, 1], [0, 1])], PALETTE, **TITLES))
    two = drawing.whole(charts.intervals([Interval("a", 1), Interval("c", 1)], PALETTE))
    assert look(one, "c") == look(two, "c") == PALETTE.color("c")
    assert PALETTE.color("c") in drawing.svg(one) and PALETTE.color("c") in drawing.svg(two)
    assert PALETTE.color("a") not in drawing.svg(one)


def test_fifty_six_series_before_two_look_the_same() -> None:
    names = [str(i) for i in range(len(SERIES) * len(DASHES))]
    palette = Palette(names)
    assert len({(palette.color(name), *palette.dash(name)) for name in names}) == 56
    assert len({(palette.color(name), palette.shape(name)) for name in names}) == 56
    assert len(DASHES) == len(SHAPES)


def _linear(color: str) -> Any:
    values = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _contrast(one: str, other: str) -> float:
    """WCAG 2.1's contrast ratio."""
    darker, lighter = sorted(float(_linear(color) @ [0.2126, 0.7152, 0.0722]) for color in (one, other))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
def test_contrast(mode: int) -> None:
    paper, raised = TONES["paper"][mode], TONES["raised"][mode]
    assert all(_contrast(pair[mode], paper) >= 3 for pair in SERIES)
    for role in ("ink", "muted", "accent", "warning"):
        assert min(_contrast(TONES[role][mode], ground) for ground in (paper, raised)) >= 4.5, role


# Machado, Oliveira and Fernandes 2009, severity 1.0, on linear RGB.
BLINDNESS = {
    "none": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def _lab(linear: Any) -> Any:
    to_xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    xyz = to_xyz @ np.clip(linear, 0, 1) / [0.95047, 1, 1.08883]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("blindness", BLINDNESS)
def test_colours_are_told_apart_by_everybody(blindness: str, mode: int) -> None:
    seen = [_lab(np.array(BLINDNESS[blindness]) @ _linear(pair[mode])) for pair in SERIES]
    assert min(float(np.linalg.norm(one - other)) for one, other in combinations(seen, 2)) > 10


def test_every_light_colour_has_one_dark_partner() -> None:
    on_light = [pair[0] for pair in (*TONES.values(), *SERIES)]
    assert len(set(on_light)) == len(on_light)
    assert all(re.fullmatch("#[0-9a-f]{6}", color) for color in on_light)
