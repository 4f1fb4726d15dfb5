"""A page with one of everything, on invented numbers and in names that are hard to write."""

from __future__ import annotations

import numpy as np

from sb3_pg.report import Bullets, Code, Details, Figure, Notice, Page, Palette, Paragraph, Section, Table, charts
from sb3_pg.report.series import Curve, Interval, Pair, Rule

# A name of markup, one with what JSON and Vega's expressions quote by, one as long as those of variants are.
NAMES = ["reinforce", "vanilla_pg", "<b>a2c</b>", 'p"p\\o', "reinforce:baseline=none,gamma=0.99"]
TASKS = ["CartPole-v1", "Acrobot-v1", "Pendulum-v1"]
FIGURES = {"learning_curves": 3, "aggregates": 4, "profiles": 1, "pairs": 1, "thresholds": 1, "variance": 1}


def example_page() -> Page:
    """What a comparison looks like."""
    palette = Palette(NAMES)
    sections = [_verdict(), _curves(palette), _aggregates(palette), _laboratory(palette), _audit(palette)]
    return Page("Five algorithms on three tasks", "10 seeds each, 100,000 steps. Commit `ac1abcb`.", sections)


def _verdict() -> Section:
    return Section(
        "Verdict",
        [
            Paragraph("**vanilla_pg** has the highest mean, 0.91 [0.87, 0.94]: see [the figures](#learning-curves)."),
            Bullets(["It beats `a2c` with probability 0.83 [0.71, 0.92].", "The others cannot be told apart."]),
            Notice("Three of 250 runs failed. Their scores are missing from every figure.", "warning"),
            Notice("Evaluations are deterministic, over 20 episodes."),
        ],
    )


def _curves(palette: Palette) -> Section:
    generator = np.random.default_rng(0)
    steps = np.linspace(2_000, 100_000, 25)
    curves = []
    for t, task in enumerate(TASKS):
        for i, name in enumerate(NAMES):
            noise = generator.normal(0, 8 + 4 * t, steps.shape)
            mean = (100 + 400 * t) * (1 - np.exp(-steps / (9_000 * (5 - 0.8 * i)))) + noise
            mean[10:12] = np.nan if i == 0 else mean[10:12]
            half = (20 + 30 * t) * np.exp(-steps / 80_000)
            curves.append(Curve(name, steps, mean, mean - half, mean + half, task))
    chart = charts.learning_curves(
        curves, palette, x_title="environment steps", y_title="mean return", rules=[Rule(80, "solved", TASKS[0])]
    )
    caption = "Mean return of evaluations over environment steps; the bands are 95% intervals of the mean."
    return Section("Learning curves", [Figure("learning_curves", chart, caption)])


def _aggregates(palette: Palette) -> Section:
    centers = {name: 0.5 + 0.1 * i for i, name in enumerate(NAMES)}
    estimates = [
        Interval(name, center - 0.05 * m, center - 0.05 * m - 0.06, center - 0.05 * m + 0.05, metric)
        for m, metric in enumerate(["IQM", "mean", "median", "optimality gap"])
        for name, center in centers.items()
    ]
    scores = np.linspace(0, 1, 30)
    shares = [1 - scores ** (1 + i) for i in range(len(NAMES))]
    profiles = [
        Curve(name, scores, share, np.maximum(share - 0.05, 0), np.minimum(share + 0.05, 1))
        for name, share in zip(NAMES, shares, strict=True)
    ]
    events = [0, 20e3, 35e3, 60e3, 100e3]
    reached = [Curve(name, events, [0, 0.1, 0.4, 0.7, 0.7 + 0.05 * i]) for i, name in enumerate(NAMES)]
    matrix = [
        Pair(a, b, 0.5 + 0.9 * (x - y), 0.45 + 0.9 * (x - y), 0.55 + 0.9 * (x - y))
        for a, x in centers.items()
        for b, y in centers.items()
        if a != b
    ]
    rows: list[list[str | float | None]] = [
        [name, center, f"[{center - 0.06:.2f}, {center + 0.05:.2f}]", 10, 4.2e4 if center > 0.5 else None]
        for name, center in centers.items()
    ]
    return Section(
        "Over all tasks",
        [
            Figure(
                "aggregates",
                charts.intervals(estimates, palette, x_title="normalised score", rules=[Rule(0.8, "anchor")]),
                "Aggregates with stratified bootstrap 95% intervals.",
            ),
            Table(
                "Final scores, normalised by `random` and `reference`.",
                ["algorithm", "IQM", "95% interval", "seeds", "steps to threshold"],
                rows,
                formats=("", ".2f", "", "d", ",.0f"),
                highlight=(4,),
                name="final_scores",
            ),
            Section(
                "Profiles",
                [
                    Figure(
                        "profiles",
                        charts.profiles(profiles, palette, x_title="score τ", y_title="share of runs above τ"),
                        "Performance profiles with pointwise 95% bands.",
                    )
                ],
            ),
            Section(
                "Pairs",
                [
                    Figure(
                        "pairs",
                        charts.pairs(matrix, palette, title="probability that the row beats the column"),
                        "Probability of improvement. Bold: the interval leaves out one half.",
                    )
                ],
            ),
            Section(
                "Time to a threshold",
                [
                    Figure(
                        "thresholds",
                        charts.step_curves(reached, palette, x_title="environment steps", y_title="share that arrived"),
                        "Kaplan-Meier estimates; runs that never got there are censored.",
                    )
                ],
            ),
        ],
    )


def _laboratory(palette: Palette) -> Section:
    n = np.array([1, 2, 4, 8, 16, 32, 64])
    curves = [Curve(name, n, (i + 1) / n, 0.8 * (i + 1) / n, 1.3 * (i + 1) / n) for i, name in enumerate(NAMES)]
    chart = charts.error_bars(curves, palette, x_title="episodes", y_title="trace of the covariance", is_y_log=True)
    return Section("Variance", [Figure("variance", chart, "Variance against the number of episodes.")])


def _audit(palette: Palette) -> Section:
    trace = (
        'Traceback (most recent call last):\n  File "train.py", line 12\nValueError: <nan> in | the loss & </script>'
    )
    folded = charts.profiles([Curve(NAMES[0], [0, 1], [1, 0])], palette, x_title="x", y_title="y")
    command = "sb3-pg compare --algos reinforce,vanillapg,a2c,ppo --envs CartPole-v1,Acrobot-v1 --seeds 10 --out x"
    return Section(
        "Audit",
        [
            Details("Three runs failed", [Code(trace), Figure("folded", folded, "A figure that is folded away.")]),
            Table(
                "A table that is wider than paper.",
                ["", *NAMES, "one more"],
                [[name, *["mlp_extractor.policy_net.0 64x4, mlp_extractor.value_net.0 64x4"] * 6] for name in NAMES],
            ),
            Paragraph("To make this page again:"),
            Code(command),
        ],
    )
