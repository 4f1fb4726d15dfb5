"""What the laboratory found, as a report."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sb3_pg.report import (
    Block,
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
from sb3_pg.report.series import Curve, Interval, with_interval
from sb3_pg.variance.results import CurvePoint, Estimate, EstimatorResult, Landscape, Measurement, Summary

#: Quantities against the size of the batch: their axes, and what they are.
AGAINST_SIZE: tuple[tuple[str, str, str, bool], ...] = (
    (
        "variance",
        "trace of the covariance",
        "Variance of the gradient: trace of its covariance. Estimators on another scale are left out.",
        True,
    ),
    ("snr", "|E g|^2 / variance", "Signal-to-noise ratio of one gradient.", True),
    (
        "pairwise_cosine",
        "cosine",
        "Mean cosine of two independent gradients; 0 where noise rules.",
        False,
    ),
    ("reference_cosine", "cosine", "Mean cosine of a gradient with that of the large reference batch.", False),
)


def measurement_page(measurement: Measurement, command: str = "") -> Page:
    """The measurement of one policy, the answer first."""
    palette = Palette([one.name for one in best_first(measurement.estimators)])
    facts = measurement.facts
    sections = [
        Section("Result", _result(measurement, palette)),
        Section("Against the size of the batch", _against_size(measurement, palette)),
        Section("Layer by layer", [_layers(measurement)]),
    ]
    transformed = _transformed(measurement)
    if transformed is not None:
        sections.append(Section("After the natural gradient, after the optimizer", [transformed]))
    if measurement.drifts:
        sections.append(Section("Importance weights and drift", _drift(measurement)))
    if measurement.landscape is not None:
        sections.append(Section("Along the step", [_landscape(measurement.landscape)]))
    sections.append(Section("What was measured", _facts(measurement, command)))
    return Page(
        "Bias and variance of policy gradients",
        f"{facts['algorithm']} on {facts['environment'] or 'an environment'}, {measurement.steps:,} steps old; "
        f"gradients of {measurement.settings['episodes']} episodes",
        sections,
    )


def _result(measurement: Measurement, palette: Palette) -> list[Block]:
    best = best_first(measurement.estimators)[0]
    worst = min(measurement.estimators, key=lambda one: _or(one.whole.snr.value, float("inf")))
    episodes = measurement.settings["episodes"]
    blocks: list[Block] = [
        Paragraph(
            f"Highest signal-to-noise ratio with {episodes} episodes: **{best.name}**, {text_of(best.whole.snr)}; "
            f"lowest: {worst.name}, {text_of(worst.whole.snr)}. From the noise scale of {best.name}, a batch of about "
            f"{text_of(best.noise_scale)} episodes has as much signal as noise."
        ),
        Bullets(
            [
                f"Reference ({name}): {one.episodes:,} episodes, norm {text_of(one.norm)}; its halves agree with a "
                f"cosine of {one.half_cosine:.3f}, and what is nearer to it than {one.half_distance:.3g} is noise."
                for name, one in measurement.references.items()
            ]
        ),
        *(Notice(remark, "warning") for remark in measurement.remarks),
        _forest(measurement, palette),
        _table(measurement.estimators),
    ]
    return blocks


def _table(estimators: Sequence[EstimatorResult]) -> Table:
    heads = ["variance", "relative variance", "SNR", "pairwise cosine", "cosine with the reference"]
    heads += ["bias / |reference|", "noise scale"]
    return Table(
        "Estimators on the same episodes, with 95% intervals. Relative: divided by the variance of the unbiased "
        "estimator that the reference is made of, on the same episodes, which leaves little noise. The noise scale is "
        "tr Cov / |E g|^2 in episodes. A dash: the estimator has another scale, or noise leaves nothing to say.",
        ["estimator", *heads],
        [
            [
                one.name,
                *(
                    text_of(column)
                    for column in (
                        one.whole.variance,
                        one.paired_variance,
                        one.whole.snr,
                        one.whole.pairwise_cosine,
                        one.whole.reference_cosine,
                        one.whole.relative_bias,
                        one.noise_scale,
                    )
                ),
            ]
            for one in best_first(estimators)
        ],
        align="l" + "r" * len(heads),
        name="estimators",
    )


def _forest(measurement: Measurement, palette: Palette) -> Figure:
    """All estimators beside each other, the best on top."""
    metrics: tuple[tuple[str, Callable[[Summary], Estimate]], ...] = (
        ("signal-to-noise ratio", lambda summary: summary.snr),
        ("pairwise cosine", lambda summary: summary.pairwise_cosine),
    )
    shown = [(title, one.name, pick(one.whole)) for title, pick in metrics for one in measurement.estimators]
    return Figure(
        "estimators",
        charts.intervals([Interval(name, e.value, e.low, e.high, title) for title, name, e in shown], palette),
        f"Signal in one gradient of {measurement.settings['episodes']} episodes: higher is better.",
    )


def _against_size(measurement: Measurement, palette: Palette) -> list[Block]:
    def figures(size: str, x_title: str, x: Callable[[CurvePoint], float]) -> list[Figure]:
        """One a quantity."""
        return [
            Figure(
                f"{name}_{size}",
                charts.error_bars(
                    [
                        curve_of(one.name, [(x(p), getattr(p.summary, name)) for p in one.curve], family_of(one))
                        for one in measurement.estimators
                        if one.estimator.keeps_scale or name != "variance"
                    ],
                    palette,
                    x_title=x_title,
                    y_title=y_title,
                    is_y_log=is_log,
                ),
                f"{words} Against {x_title}.",
            )
            for name, y_title, words, is_log in AGAINST_SIZE
        ]

    in_steps = figures("steps", "environment steps in a gradient", lambda point: point.steps)
    return [
        *figures("episodes", "episodes in a gradient", lambda point: float(point.episodes)),
        Details("The same against environment steps", in_steps),
    ]


def family_of(result: EstimatorResult) -> str:
    """What shares a panel."""
    critic = result.estimator.critic if result.estimator.uses_critic else "zero"
    return "without a critic" if critic == "zero" else f"with the {critic} critic"


def best_first(estimators: Sequence[EstimatorResult]) -> list[EstimatorResult]:
    """By their signal-to-noise ratio."""
    return sorted(estimators, key=lambda one: -_or(one.whole.snr.value))


def curve_of(series: str, points: Sequence[tuple[float, Estimate]], panel: str = "") -> Curve:
    """Estimates with their intervals against something."""
    return Curve(
        series,
        [x for x, _ in points],
        [one.value for _, one in points],
        [one.low for _, one in points],
        [one.high for _, one in points],
        panel,
    )


def _layers(measurement: Measurement) -> Table:
    names = list(dict.fromkeys(name for one in measurement.estimators for name in one.layers))
    return Table(
        "Signal-to-noise ratio of each layer's part of the gradient, with 95% intervals.",
        ["estimator", *names],
        [
            [one.name, *(text_of(one.layers[name].snr) if name in one.layers else None for name in names)]
            for one in measurement.estimators
        ],
        name="layers",
    )


def _transformed(measurement: Measurement) -> Table | None:
    kinds: list[tuple[str, Callable[[EstimatorResult], Summary | None]]] = [
        ("raw", lambda one: one.whole),
        ("natural", lambda one: one.natural),
        ("optimizer", lambda one: one.optimizer),
    ]
    kinds = [kind for kind in kinds if any(kind[1](one) is not None for one in measurement.estimators)]
    if len(kinds) < 2:
        return None
    headers = [f"{name}: {what}" for name, _ in kinds for what in ("SNR", "pairwise cosine")]
    rows = []
    for one in measurement.estimators:
        summaries = [pick(one) for _, pick in kinds]
        cells = [
            None if summary is None else text_of(column(summary))
            for summary in summaries
            for column in (lambda found: found.snr, lambda found: found.pairwise_cosine)
        ]
        rows.append([one.name, *cells])
    return Table("The same gradients, raw, multiplied by the inverse Fisher matrix, and as the optimizer would step.",
                 ["estimator", *headers], rows, name="transformed")  # fmt: skip


def _drift(measurement: Measurement) -> list[Block]:
    levels = list(dict.fromkeys(weights.level for drift in measurement.drifts for weights in drift.weights))
    palette = Palette(levels)
    by_level = {
        level: [(drift.measured_kl, one) for drift in measurement.drifts for one in drift.weights if one.level == level]
        for level in levels
    }
    figures = [
        Figure(
            f"drift_{name}",
            charts.error_bars(
                [
                    curve_of(level, sorted((kl, getattr(one, name)) for kl, one in points if kl > 0))
                    for level, points in by_level.items()
                ],
                palette,
                x_title="KL from the policy that played",
                y_title=y_title,
                is_y_log=name == "variance",
            ),
            words,
        )
        for name, y_title, words in (
            ("ess", "effective sample size, as a fraction", "What is left of a sample when the policy moves on."),
            ("variance", "variance of the weights", "Variance of the importance weights of each level."),
        )
    ]
    tables = [
        Table(
            f"Estimators at a KL of {drift.measured_kl:.3g}, from episodes of the old policy, against the gradient of "
            "episodes of its own.",
            ["estimator", "variance", "cosine with the reference", "bias / |reference|"],
            [
                [
                    one.name,
                    *(text_of(x) for x in (one.whole.variance, one.whole.reference_cosine, one.whole.relative_bias)),
                ]
                for one in drift.estimators
            ],
            align="lrrr",
        )
        for drift in measurement.drifts
    ]
    return [*figures, *tables]


def _landscape(landscape: Landscape) -> Figure:
    parts = {"return gained": "gain", "surrogate": "surrogate", f"clipped at {landscape.clip_range:g}": "clipped"}
    points = landscape.points
    return Figure(
        "landscape",
        charts.learning_curves(
            [
                curve_of(name, [(point.size, getattr(point, field)) for point in points])
                for name, field in parts.items()
            ],
            Palette(list(parts)),
            x_title=f"size of the step; 1 has a KL of {landscape.kl:g}",
            y_title="return an episode",
        ),
        f"What the return gains along the direction of {landscape.direction}, and what the surrogate of "
        "the episodes before it promises, with 95% intervals.",
    )


def _facts(measurement: Measurement, command: str) -> list[Block]:
    rows = [
        [name, str(value)] for name, value in (measurement.facts | measurement.settings).items() if value is not None
    ]
    critics = Table(
        "How well critics explain the rewards-to-go of episodes that they have not seen.",
        ["critic", "explained variance", "passes of its fit"],
        [[one.name, text_of(one.explained_variance), str(one.passes)] for one in measurement.critics],
        align="lrr",
    )
    blocks: list[Block] = [critics, Table("The policy, the environment and what was asked.", ["", ""], rows)]
    return [*blocks, Code(command)] if command else blocks


def text_of(one: Estimate) -> str:
    """With its interval; a dash where there is nothing to say."""
    return with_interval(one.value, one.low, one.high) if one.value == one.value else "–"  # noqa: RUF001


def _or(value: float, instead: float = float("-inf")) -> float:
    return value if value == value else instead
