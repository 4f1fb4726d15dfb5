"""When runs first reached a target, in a table: a line a contender, relative to one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.runs import there
from sb3_pg.compare.records import Floats, Record
from sb3_pg.statistics import Passage, bootstrap_interval, first_passage, mean


def passage(record: Record, target: float) -> Passage:
    """The first evaluation that reaches the target; the last one, at the end of the budget, where none does."""
    evaluations = there(record.evaluations)
    return first_passage(evaluations.steps, evaluations.scores, target)


def passages(records: Sequence[Record], labels: Sequence[str], target: float) -> dict[str, list[Passage]]:
    """Of each contender, one a run."""
    return {label: [passage(one, target) for one in records if one.algorithm == label] for label in labels}


def ratio_of_means(steps: Floats, baseline: Floats) -> Floats:
    """How many steps the mean seed needs, relative to another contender's."""
    return mean(steps) / mean(baseline)


def relative(steps: Floats, baseline: Floats) -> str:
    """The ratio of the mean steps, with its interval: seeds are drawn anew for each of the two."""
    if steps is baseline:
        return "1.00"
    ratio = bootstrap_interval(ratio_of_means, steps[:, None], baseline[:, None])
    return f"{ratio.estimate:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"


def table(title: str, found: Mapping[str, Sequence[Passage]], target: float, *yardsticks: str) -> str:
    """A line a contender: how many seeds reach the target, and when.

    :param title: of the first column
    :param found: of each contender
    :param yardsticks: whom all are compared with, each in a column of its own
    """
    compared = "".join(f" | mean steps, relative to {one} (95% interval)" for one in yardsticks)
    lines = [
        f"| {title} | seeds that reach {target:,.0f} | median steps to it | slowest{compared} |",
        "|---" * (4 + len(yardsticks)) + "|",
    ]
    steps = {label: np.array([one.time for one in own]) for label, own in found.items()}
    for label, own in found.items():
        reached = f"{sum(one.reached for one in own)} of {len(own)}"
        times = f"{np.median(steps[label]):,.0f} | {steps[label].max():,.0f}"
        ratios = "".join(f" | {relative(steps[label], steps[one])}" for one in yardsticks)
        lines.append(f"| {label} | {reached} | {times}{ratios} |")
    return "\n".join(lines)
