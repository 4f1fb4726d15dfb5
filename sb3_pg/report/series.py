"""What charts are made from: plain numbers with the name of a series."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

Row: TypeAlias = "dict[str, Any]"


@dataclass(frozen=True)
class Curve:
    """A line of a series, with a band or error bars around it if there is an interval.

    :param x: ascending
    :param y: nan where there is nothing
    :param low: lower ends of intervals; with ``high`` or not at all
    :param high: upper ends of intervals
    :param panel: the title of the panel that it belongs to
    :raises ValueError: for lengths that differ
    """

    series: str
    x: ArrayLike
    y: ArrayLike
    low: ArrayLike | None = None
    high: ArrayLike | None = None
    panel: str = ""

    def __post_init__(self) -> None:
        if (self.low is None) != (self.high is None):
            raise ValueError(f"curve {self.series!r}: give both ends of its intervals, low and high, or none")
        shapes = {np.shape(a) for a in (self.x, self.y, self.low, self.high) if a is not None}
        if len(shapes) != 1 or len(shapes.pop()) != 1:
            raise ValueError(f"curve {self.series!r}: x, y, low and high should be of one length")
        if np.any(np.diff(np.asarray(self.x, dtype=float)) < 0):
            raise ValueError(f"curve {self.series!r}: x should ascend")

    def points(self, is_x_log: bool = False, is_y_log: bool = False) -> list[Row]:
        """Rows with ``series``, ``x``, ``y``, ``low`` and ``high``; None where there is nothing to draw."""
        xs, ys = np.asarray(self.x, dtype=float), np.asarray(self.y, dtype=float)
        nothing = np.full(xs.shape, np.nan)
        lows = nothing if self.low is None else np.asarray(self.low, dtype=float)
        highs = nothing if self.high is None else np.asarray(self.high, dtype=float)
        rows = [
            {
                "series": self.series,
                "x": drawable(x, is_x_log),
                "y": drawable(y, is_y_log),
                "low": drawable(low, is_y_log),
                "high": drawable(high, is_y_log),
                "text": with_interval(y, low, high),
            }
            for x, y, low, high in zip(xs, ys, lows, highs, strict=True)
            if drawable(x, is_x_log) is not None
        ]
        ys_drawn = [None, *(row["y"] for row in rows), None]
        for row, before, after in zip(rows, ys_drawn, ys_drawn[2:], strict=False):
            row["is_alone"] = before is None and after is None
        return rows


@dataclass(frozen=True)
class Interval:
    """An estimate of a series with its interval, nan or None where there is none.

    :param panel: the title of the panel that it belongs to
    """

    series: str
    value: float
    low: float | None = None
    high: float | None = None
    panel: str = ""


@dataclass(frozen=True)
class Pair:
    """How one series stands to another, with an interval, nan or None where there is none."""

    row: str
    column: str
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Rule:
    """A line across a panel with a word at it: a threshold, somebody else's number.

    :param panel: the title of the panel that it belongs to; without one it is in all
    """

    value: float
    label: str
    panel: str = ""


def number(value: float) -> str:
    """A number as a reader wants it: thousands with their separators, else four digits."""
    if not math.isfinite(value):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def with_interval(value: float, low: float | None, high: float | None, fmt: str = "") -> str:
    """An estimate as text, with its interval if it has one.

    :param fmt: a format specification; the default is :func:`number`'s
    """

    def text(one: float) -> str:
        return format(one, fmt) if fmt else number(one)

    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return text(value)
    return f"{text(value)} [{text(low)}, {text(high)}]"


def drawable(value: float | None, is_log: bool = False) -> float | None:
    """A number that has a place on the axis, to six digits, else None."""
    if value is None or not math.isfinite(value) or (is_log and value <= 0):
        return None
    return float(f"{value:.6g}")  # no eye sees more, and a page of many curves is half as long
