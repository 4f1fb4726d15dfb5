"""What the laboratory found at the checkpoints of a run, one after the other, as a report."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sb3_pg.report import Block, Bullets, Code, Figure, Page, Palette, Section, Table, charts
from sb3_pg.report.series import Curve
from sb3_pg.variance.page import best_first, curve_of, family_of, text_of
from sb3_pg.variance.results import Estimate, EstimatorResult, Measurement

X_TITLE = "environment steps that the policy has learned from"
#: Of an estimator at a checkpoint: the figure's name, its axis, what it is, whether that is logarithmic, the number.
QUANTITIES: tuple[tuple[str, str, str, bool, Callable[[EstimatorResult], Estimate]], ...] = (
    ("snr", "|E g|^2 / variance", "Signal-to-noise ratio of one gradient.", True, lambda one: one.whole.snr),
    ("pairwise_cosine", "cosine", "Cosine of two gradients.", False, lambda one: one.whole.pairwise_cosine),
    ("noise_scale", "episodes", "Noise scale: the batch that it suggests.", True, lambda one: one.noise_scale),
)


def checkpoints_page(measurements: Sequence[Measurement], command: str = "") -> Page:
    """How signal and noise change while a policy learns.

    :param measurements: of one run's checkpoints, with the same settings
    """
    ordered = sorted(measurements, key=lambda one: one.steps)
    last = ordered[-1]
    palette = Palette([one.name for one in best_first(last.estimators)])
    sections = [
        Section("The policy", [_returns(ordered), _table(ordered)]),
        Section("Estimators", [_figure(ordered, palette, *quantity) for quantity in QUANTITIES]),
        Section("Critics", [_critics(ordered)]),
    ]
    sections += [Section("Made by", [Code(command)])] if command else []
    facts = last.facts
    return Page(
        "Signal and noise along the training",
        f"{facts['algorithm']} on {facts['environment'] or 'an environment'}, {len(ordered)} checkpoints; gradients of "
        f"{last.settings['episodes']} episodes",
        sections,
    )


def _returns(ordered: Sequence[Measurement]) -> Figure:
    curve = curve_of("mean return", [(float(one.steps), one.mean_return) for one in ordered])
    drawn = charts.learning_curves([curve], Palette(["mean return"]), x_title=X_TITLE, y_title="return an episode")
    return Figure("returns", drawn, "Mean return of the stochastic policy, with 95% intervals.")


def _table(ordered: Sequence[Measurement]) -> Block:
    remarks = [f"{one.steps:,} steps: {remark}" for one in ordered for remark in one.remarks]
    rows = []
    for one in ordered:
        best = best_first(one.estimators)[0]
        reference = one.references["undiscounted"]
        cells = [text_of(one.mean_return), text_of(reference.norm), f"{reference.half_cosine:.3f}", best.name]
        rows.append([f"{one.steps:,}", *cells, text_of(best.whole.snr), text_of(best.noise_scale)])
    heads = ["steps", "return", "norm of the gradient", "cosine of its halves", "most signal by", "SNR", "noise scale"]
    table = Table("Each checkpoint, and the estimator with the most signal there.", heads, rows, align="rrrrlrr")
    return Section("Numbers", [table, *([Bullets(remarks)] if remarks else [])])


def _figure(
    ordered: Sequence[Measurement],
    palette: Palette,
    name: str,
    y_title: str,
    words: str,
    is_log: bool,
    pick: Callable[[EstimatorResult], Estimate],
) -> Figure:
    curves: list[Curve] = []
    for one in ordered[-1].estimators:
        points = [
            (float(measurement.steps), pick(result))
            for measurement in ordered
            for result in measurement.estimators
            if result.name == one.name
        ]
        curves.append(curve_of(one.name, points, family_of(one)))
    drawn = charts.error_bars(curves, palette, x_title=X_TITLE, y_title=y_title, is_x_log=False, is_y_log=is_log)
    return Figure(name, drawn, f"{words} Against the steps of the training.")


def _critics(ordered: Sequence[Measurement]) -> Figure:
    names = list(dict.fromkeys(critic.name for one in ordered for critic in one.critics))
    curves = [
        curve_of(
            name,
            [(float(one.steps), c.explained_variance) for one in ordered for c in one.critics if c.name == name],
        )
        for name in names
    ]
    drawn = charts.learning_curves(curves, Palette(names), x_title=X_TITLE, y_title="explained variance")
    return Figure("critics", drawn, "How well critics explain the rewards-to-go of episodes that they have not seen.")
