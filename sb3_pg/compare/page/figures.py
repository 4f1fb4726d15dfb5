"""The figures of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sb3_pg.compare.analysis import AGGREGATES, Analysis
from sb3_pg.compare.curves import AXES, LearningCurve, logged_curves
from sb3_pg.compare.records import Record
from sb3_pg.report import Figure, Palette, charts
from sb3_pg.report.series import Curve, Interval, Pair, Rule
from sb3_pg.statistics import curve_band, performance_profile, reach_curve

#: What algorithms log about their updates, and what it is.
DIAGNOSTICS: Mapping[str, str] = {
    "train/approx_kl": "KL divergence of an update",
    "train/ess": "effective sample size, as a share of the batch",
    "train/explained_variance": "variance of the returns that the critic explains",
    "train/gradient_snr": "signal-to-noise ratio of the gradient",
    "train/entropy_loss": "negative entropy of the policy",
}
#: Points of a performance profile.
N_THRESHOLDS = 101


def aggregates(analysis: Analysis, palette: Palette) -> Figure:
    """Every aggregate of every algorithm, with its interval."""
    estimates = [
        Interval(label, one.estimate, one.low, one.high, panel=name)
        for name in AGGREGATES
        for label in analysis.scores.labels
        for one in (analysis.aggregates[label][name],)
    ]
    return Figure(
        "aggregates",
        charts.intervals(estimates, palette, x_title=f"final score, {analysis.normalisation.name}"),
        "Final scores over all environments, with 95% bootstrap intervals: the runs are drawn anew within each "
        f"environment. Of the optimality gap less is better.{analysis.of_failures}",
    )


def improvements(analysis: Analysis, palette: Palette) -> Figure:
    """The matrix of pairs."""
    both = [
        pair
        for one in analysis.pairs
        for i in (one.improvement,)
        for pair in (
            Pair(one.x, one.y, i.estimate, i.low, i.high),
            Pair(one.y, one.x, 1 - i.estimate, 1 - i.high, 1 - i.low),
        )
    ]
    return Figure(
        "improvement",
        charts.pairs(both, palette, title="probability that a run of the row scores higher than one of the column"),
        f"Probability of improvement over all environments. The intervals of all {len(analysis.pairs)} pairs hold "
        f"together with 95%; bold is what has its whole interval on one side of one half.{analysis.of_failures}",
    )


def profiles(analysis: Analysis, palette: Palette) -> Figure:
    """Performance profiles of the normalised scores."""
    thresholds = np.linspace(0.0, 1.0, N_THRESHOLDS)
    curves = []
    for label, matrix in analysis.normalised.items():
        share = performance_profile(matrix, thresholds)
        if len(matrix) > 1:
            # Each threshold is a task whose score is whether the run is above it, averaged over the environments
            above = (matrix[:, :, None] > thresholds).mean(axis=1)
            band = curve_band(above, lambda scores: scores.mean(axis=(-2, -1)))
            curves.append(Curve(label, thresholds, share, np.clip(band.low, 0, 1), np.clip(band.high, 0, 1)))
        else:
            curves.append(Curve(label, thresholds, share))
    return Figure(
        "profiles",
        charts.profiles(
            curves, palette, x_title=f"final score, {analysis.normalisation.name}", y_title="share of runs above"
        ),
        "Performance profiles: the share of runs whose final score is above a value, averaged over the environments."
        f"{analysis.of_failures}",
    )


def learning(curves: Sequence[LearningCurve], palette: Palette, thresholds: Mapping[str, float], what: str) -> Figure:
    """Evaluation curves along one axis, a panel an environment.

    :param curves: one or more, all along the same axis
    :param what: how the policy acted in the evaluations
    """
    drawn = [
        Curve(
            one.algorithm,
            one.x,
            one.mean,
            None if one.band is None else one.band.low,
            None if one.band is None else one.band.high,
            panel=one.env_id,
        )
        for one in curves
    ]
    panels = {one.env_id for one in curves}
    rules = [Rule(value, f"{value:g}", env_id) for env_id, value in thresholds.items() if env_id in panels]
    axis = curves[0].axis
    return Figure(
        f"curves_{axis}",
        charts.learning_curves(drawn, palette, x_title=AXES[axis], y_title="mean return of an evaluation", rules=rules),
        f"Evaluations of {what} over {AXES[axis]}: mean over the runs, with its 95% interval (not the spread between "
        "runs, which is in the table of final scores).",
    )


def reaches(analysis: Analysis, palette: Palette) -> Figure | None:
    """Share of runs that have reached their environment's threshold; None where there is nothing to draw."""
    curves = []
    for one in analysis.reaches:
        if len(one.steps) < 2:
            continue
        share = reach_curve(one.steps)
        x, parts = np.concatenate([[0.0], share.times]), (share.share, share.low, share.high)
        y, low, high = (np.concatenate([[0.0], part]) for part in parts)
        curves.append(Curve(one.algorithm, x, y, low, high, panel=f"{one.env_id}: {one.threshold:g}"))
    if not curves:
        return None
    return Figure(
        "reached",
        charts.step_curves(curves, palette, x_title=AXES["steps"], y_title="share of runs that have reached it"),
        "Share of runs with an evaluation at or above the threshold, by Kaplan and Meier; a run that never reached it "
        "is watched until its end.",
    )


def diagnostics(records: Sequence[Record], palette: Palette) -> list[Figure]:
    """What the algorithms logged about their updates, a figure a quantity."""
    figures = []
    for key, words in DIAGNOSTICS.items():
        curves = [Curve(one.algorithm, one.x, one.mean, panel=one.env_id) for one in logged_curves(records, key)]
        if curves:
            name = key.replace("/", "_")
            chart = charts.learning_curves(curves, palette, x_title=AXES["steps"], y_title=key)
            figures.append(Figure(name, chart, f"`{key}`, mean over the runs: {words}."))
    return figures
