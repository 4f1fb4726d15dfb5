"""A page with one of everything, on invented numbers."""

from __future__ import annotations

import numpy as np

from sb3_pg.report import (
    Bullets,
    Code,
    Details,
    Figure,
    Notice,
    Page,
    Palette,
    Paragraph,
    Section,
    Table,
    charts,
)
from sb3_pg.report.series import Curve, Interval, Pair, Rule

NAMES = ["reinforce", "vanillapg", "offpolicyispg", "a2c", "ppo"]
TASKS = ["CartPole-v1", "Acrobot-v1", "Pendulum-v1", "MountainCarContinuous-v0", "LunarLander-v3"]


def example_page() -> Page:
    """What a comparison looks like."""
    palette = Palette(NAMES)
    sections = [_verdict(), _curves(palette), _aggregates(palette), _laboratory(palette), _audit()]
    return Page("Five algorithms on five classic tasks", "10 seeds each, 100,000 steps. Commit `ac1abcb`.", sections)


def _verdict() -> Section:
    return Section(
        "Verdict",
        [
            Paragraph("**ppo** has the highest interquartile mean, 0.91 [0.87, 0.94], of the five; see [the figures](#learning-curves)."),
            Bullets(["ppo beats `a2c` with probability 0.83 [0.71, 0.92].", "vanillapg and a2c cannot be told apart."]),
            Notice("Three of 250 runs failed. Their scores are missing from every figure.", "warning"),
            Notice("Evaluations are deterministic, over 20 episodes."),
        ],
    )


def _curves(palette: Palette) -> Section:
    rng = np.random.default_rng(0)
    steps = np.linspace(2_000, 100_000, 50)
    curves = []
    for t, task in enumerate(TASKS):
        for i, name in enumerate(NAMES):
            mean = (100 + 400 * t) * (1 - np.exp(-steps / (9_000 * (5 - 0.8 * i)))) + rng.normal(0, 8 + 4 * t, steps.shape)
            half = (20 + 30 * t) * np.exp(-steps / 80_000)
            curves.append(Curve(name, steps, mean, mean - half, mean + half, task))
    gap = curves[0]
    gap_y = np.array(gap.y)
    gap_y[20:25] = np.nan
    curves[0] = Curve(gap.series, gap.x, gap_y, gap.low, gap.high, gap.panel)
    chart = charts.learning_curves(
        curves, palette, x_title="environment steps", y_title="mean return", rules=[Rule(80, "solved", TASKS[0])]
    )
    return Section("Learning curves", [Figure("learning_curves", chart, "Mean return of deterministic evaluations over environment steps; the bands are 95% intervals of the mean over 10 seeds.")])


def _aggregates(palette: Palette) -> Section:
    metrics = ["IQM", "mean", "median", "optimality gap"]
    estimates = [
        Interval(name, 0.5 + 0.1 * i - 0.05 * m, 0.44 + 0.1 * i - 0.05 * m, 0.55 + 0.1 * i - 0.05 * m, metric)
        for m, metric in enumerate(metrics)
        for i, name in enumerate(NAMES)
    ]
    taus = np.linspace(0, 1, 60)
    shares = [Curve(n, taus, (1 - taus ** (1 + i)), np.clip(1 - taus ** (1 + i) - 0.05, 0, 1), np.clip(1 - taus ** (1 + i) + 0.05, 0, 1)) for i, n in enumerate(NAMES)]
    times = [Curve(n, [0, 20e3, 35e3, 60e3, 100e3], [0, 0.2 + 0.05 * i, 0.4 + 0.05 * i, 0.7, 0.7 + 0.05 * i]) for i, n in enumerate(NAMES)]
    matrix = [Pair(a, b, 0.5 + 0.11 * (i - j), 0.4 + 0.11 * (i - j), 0.59 + 0.11 * (i - j)) for i, a in enumerate(NAMES) for j, b in enumerate(NAMES) if a != b]
    rows = [[name, 0.5 + 0.1 * i, f"[{0.44 + 0.1 * i:.2f}, {0.55 + 0.1 * i:.2f}]", 10, float("nan") if i == 1 else 4.2e4] for i, name in enumerate(NAMES)]
    return Section(
        "Over all tasks",
        [
            Figure("aggregates", charts.intervals(estimates, palette, x_title="normalised score", rules=[Rule(0.8, "anchor")]), "Aggregates with stratified bootstrap 95% intervals."),
            Table("Final scores, normalised by `random` and `reference`.", ["algorithm", "IQM", "95% interval", "seeds", "steps to threshold"], rows, formats=("", ".2f", "", "d", ",.0f"), highlight=(4,), name="final_scores"),
            Section("Profiles", [Figure("profiles", charts.profiles(shares, palette, x_title="normalised score τ", y_title="share of runs above τ"), "Performance profiles with pointwise 95% bands.")]),
            Section("Pairs", [Figure("pairs", charts.pairs(matrix, palette, title="probability that the row beats the column"), "Probability of improvement. Bold: the interval leaves out one half.")]),
            Section("Time to a threshold", [Figure("thresholds", charts.step_curves(times, palette, x_title="environment steps", y_title="share that got there"), "Kaplan-Meier estimates; runs that never got there are censored.")]),
        ],
    )


def _laboratory(palette: Palette) -> Section:
    n = np.array([1, 2, 4, 8, 16, 32, 64])
    curves = [Curve(name, n, (i + 1) / n, 0.8 * (i + 1) / n, 1.3 * (i + 1) / n) for i, name in enumerate(NAMES)]
    chart = charts.error_bars(curves, palette, x_title="episodes", y_title="trace of the covariance", is_y_log=True)
    return Section("Variance", [Figure("variance", chart, "Variance of the gradient against the number of episodes, with 95% intervals.")])


def _audit() -> Section:
    trace = "Traceback (most recent call last):\n  File \"train.py\", line 12, in <module>\nValueError: <nan> in | the loss & more"
    return Section("Audit", [Details("Three runs failed", [Code(trace)]), Paragraph("To make this page again:"), Code("sb3-pg compare --algos reinforce,vanillapg,a2c,ppo --envs CartPole-v1,Acrobot-v1 --seeds 10 --jobs 2 --out runs/x")])
