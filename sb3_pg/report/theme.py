"""Colours, dashes, shapes and type of a report, in one place for page and figures.

Figures are drawn in the light colours. The page's style sheet replaces each of them in an SVG by its dark partner where
the reader prefers dark, so a figure is neither drawn twice nor drawn again when the preference changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# Role: colour on a light page, colour on a dark one. Every light colour stands for one role only.
TONES = {
    "paper": ("#ffffff", "#15181d"),
    "raised": ("#f5f6f8", "#1e2229"),
    "ink": ("#1c2024", "#e8eaed"),
    "muted": ("#596069", "#a3abb6"),
    "line": ("#d6dae0", "#3a414b"),
    "accent": ("#0f5fbf", "#7cb2ff"),
    "warning": ("#9a5b00", "#f0b45a"),
}
# Light and dark. At least 3:1 against the page (WCAG 2.1, 1.4.11), and told apart with each of the three kinds of
# colour blindness: CIELAB distance above 10 with Machado et al. 2009's matrices at full severity.
SERIES = (
    ("#1668c7", "#4c93ff"),
    ("#a84006", "#ef7330"),
    ("#0b7a4b", "#4fdc8c"),
    ("#8a2f86", "#b97fc0"),
    ("#b58900", "#f5d23c"),
    ("#3a97b8", "#5cc8f5"),
    ("#e8608a", "#d98096"),
    ("#4a4a4a", "#cbc9c9"),
)
# As many dashes as shapes, and no common divisor with the number of colours: 56 series before one looks like another.
DASHES = ([1, 0], [7, 3], [2, 2], [9, 3, 2, 3], [4, 2], [14, 4], [9, 2, 2, 2, 2, 2])
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right")
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'Liberation Sans', Arial, sans-serif"


def light(role: str) -> str:
    """The colour of a role as figures are drawn with it."""
    return TONES[role][0]


@dataclass(frozen=True)
class Palette:
    """One look for each series, the same in all figures of a report.

    :param names: every series of the report, in the order of its legends and rows
    :raises ValueError: for a name given twice
    """

    names: tuple[str, ...]

    def __init__(self, names: Sequence[str]) -> None:
        twice = [name for i, name in enumerate(names) if name in names[:i]]
        if twice:
            raise ValueError(f"the series {twice[0]!r} is there twice: each needs a name of its own")
        object.__setattr__(self, "names", tuple(names))

    def index(self, name: str) -> int:
        """The place of a series.

        :raises ValueError: for one that the report does not know
        """
        if name not in self.names:
            raise ValueError(f"there is no series {name!r} in this report's palette: it has {', '.join(self.names)}")
        return self.names.index(name)

    def color(self, name: str) -> str:
        """Its colour on a light page."""
        return SERIES[self.index(name) % len(SERIES)][0]

    def dash(self, name: str) -> list[int]:
        """Its line: lengths of strokes and gaps."""
        return list(DASHES[self.index(name) % len(DASHES)])

    def shape(self, name: str) -> str:
        """Its points: one of Vega's symbols."""
        return SHAPES[self.index(name) % len(SHAPES)]


def chart_config() -> dict[str, Any]:
    """What all figures have in common, as a Vega-Lite configuration."""
    axis = {
        "domainColor": light("line"),
        "gridColor": light("line"),
        "gridOpacity": 0.6,
        "tickColor": light("line"),
        "labelColor": light("muted"),
        "titleColor": light("muted"),
        "labelFontSize": 11,
        "titleFontSize": 11.5,
        "titleFontWeight": "normal",
        "titlePadding": 8,
        "labelPadding": 4,
        "labelLimit": 160,
    }
    return {
        "font": FONT,
        "background": None,
        "aria": False,  # the caption says what a figure shows; every mark by itself would be noise
        "padding": {"left": 1, "top": 4, "right": 8, "bottom": 2},
        "view": {"stroke": None},
        "axis": axis,
        "legend": {
            "labelColor": light("ink"),
            "labelFontSize": 12,
            "labelLimit": 400,
            "symbolStrokeWidth": 2,
            "orient": "top",
            "columnPadding": 18,
        },
        "title": {
            "color": light("ink"),
            "fontSize": 13,
            "fontWeight": 600,
            "anchor": "start",
            "frame": "group",
            "offset": 8,
        },
        "concat": {"spacing": 28},
    }


def variables(is_dark: bool) -> str:
    """The colours as CSS variables: ``--ink``, ``--series-0`` and so on."""
    tones = [*TONES.items(), *((f"series-{i}", pair) for i, pair in enumerate(SERIES))]
    return "".join(f"--{role}:{pair[is_dark]};" for role, pair in tones)


def dark_figures() -> str:
    """CSS that shows the light colours inside of an SVG as their dark partners."""
    pairs = [*TONES.values(), *SERIES]
    return "\n".join(
        f'figure svg [{attribute}="{on_light}"]{{{attribute}:{on_dark}}}'
        for on_light, on_dark in pairs
        for attribute in ("fill", "stroke")
    )
