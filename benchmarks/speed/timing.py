"""Contenders timed in turn, and the tables that come of it."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

N_REPEATS = 9
Rate = Callable[[], float]


@dataclass(frozen=True)
class Workload:
    """Contenders that are timed in turn, each a function that returns environment steps (or rows) per second.

    :param aim: of the last contender's ratio to the reference
    :param reference: the contender that ratios are to; None for the first
    :param note: said below the table
    """

    name: str
    contenders: dict[str, Rate]
    aim: str = ""
    reference: str | None = None
    note: str = ""


def interleaved(contenders: dict[str, Rate]) -> dict[str, list[float]]:
    """The rates of all contenders, one after the other, as often as there are repeats; a first round is not counted."""
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for repeat in range(N_REPEATS + 1):
        for name, rate in contenders.items():
            value = rate()
            if repeat > 0:
                rates[name].append(value)
    return rates


def ratio(own: Sequence[float], reference: Sequence[float]) -> str:
    """Median and range of the ratios of rounds."""
    ratios = np.array(own) / np.array(reference)
    return f"{np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})"


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def paragraph(text: str) -> str:
    """The text in lines of 120 columns, the last one ended; nothing for nothing."""
    filled = textwrap.fill(text.strip(), 120)
    return f"{filled}\n" if filled else ""


def table(workload: Workload) -> str:
    """A line a contender: its rate, and its ratio to the reference in the same round."""
    rates = interleaved(workload.contenders)
    reference = next(iter(rates)) if workload.reference is None else workload.reference
    rows = [(name, f"{median(own):,.0f}", ratio(own, rates[reference])) for name, own in rates.items()]
    text = markdown(("", "per second, median", f"ratio to {reference}, median (range)"), rows)
    aim = f"Aim of the last line: {workload.aim}." if workload.aim else ""
    below = paragraph(f"{aim} {workload.note}")
    return f"## {workload.name}\n\n{text}" + (f"\n{below}" if below else "")
