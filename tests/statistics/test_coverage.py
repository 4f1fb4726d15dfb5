"""How often intervals hold the true value, on synthetic scores whose true value is known.

Of 2,600 data sets the share is known to 0.5%. Longer simulations gave 94.2% for the mean (20,000 data sets) and 95.1%
for the interquartile mean (6,000): about 4.5 standard errors or more away from where their assertion would fail, a
chance below 1e-5. Plain percentiles hold the mean of five runs so rarely that theirs is smaller still.
"""

from __future__ import annotations

import numpy as np
import pytest

from sb3_pg import statistics as s
from sb3_pg.statistics.intervals import Method, Statistic

DATA_SETS = 2_600


def coverage(statistic: Statistic, runs: int, tasks: int, method: Method = "expanded") -> float:
    """Share of data sets of standard normal scores whose interval holds 0, their mean and their interquartile mean."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(DATA_SETS):
        scores = rng.normal(size=(runs, tasks))
        interval = s.bootstrap_interval(statistic, scores, method=method, resamples=500, rng=rng)
        held += interval.low <= 0 <= interval.high
    return held / DATA_SETS


@pytest.mark.parametrize(("statistic", "runs", "tasks"), [(s.mean, 10, 1), (s.iqm, 10, 5)])
def test_the_interval_holds_the_true_value_as_often_as_it_says(statistic: Statistic, runs: int, tasks: int) -> None:
    assert 0.92 <= coverage(statistic, runs, tasks) <= 0.97


def test_plain_percentiles_of_few_runs_are_too_narrow() -> None:
    assert coverage(s.mean, 5, 1, "percentile") < 0.92
