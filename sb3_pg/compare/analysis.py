"""What the scores of all runs say: aggregates, pairs, tasks, times to a threshold. No words, no drawing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sb3_pg.compare.curves import times
from sb3_pg.compare.records import Floats, Record
from sb3_pg.compare.scores import METRICS, Scores, scores_of
from sb3_pg.statistics import (
    Comparison,
    Interval,
    Normalisation,
    Passage,
    between,
    bootstrap_interval,
    compare_pairs,
    first_passage,
    iqm,
    mean,
    median,
    median_time,
    median_time_interval,
    optimality_gap,
)
from sb3_pg.statistics.intervals import Statistic

#: Of every interval here.
LEVEL = 0.95
#: What is said of an algorithm over all tasks, on normalised scores.
AGGREGATES: Mapping[str, Statistic] = {"IQM": iqm, "mean": mean, "median": median, "optimality gap": optimality_gap}


@dataclass(frozen=True)
class TaskSummary:
    """One algorithm on one environment.

    :param n_runs: all of them, failed ones included
    :param n_failed: without a finite final score; they count with the lowest score of any run on the task
    :param final: mean of the final scores, with its confidence interval; from one run its limits are nan
    :param iqm: interquartile mean of the final scores
    :param lowest: the lowest final score: the spread between runs, not the confidence of their mean
    :param highest: the highest
    :param others: mean over the runs of the other metrics, nan where no run has it
    """

    algorithm: str
    env_id: str
    n_runs: int
    n_failed: int
    final: Interval
    iqm: float
    lowest: float
    highest: float
    others: Mapping[str, float]


@dataclass(frozen=True)
class Reach:
    """When an algorithm reached a score on an environment, in steps and in seconds of training.

    :param steps: of each run, censored where it never did
    :param seconds: the same; empty where the runs do not say
    """

    algorithm: str
    env_id: str
    threshold: float
    steps: Sequence[Passage]
    seconds: Sequence[Passage]

    @property
    def n_reached(self) -> int:
        """Runs that reached it."""
        return sum(passage.reached for passage in self.steps)

    def median(self, passages: Sequence[Passage]) -> Interval | float | None:
        """Median time by Kaplan and Meier, with an interval from two runs on; None if half of the runs never did."""
        return median_time_interval(passages) if len(passages) > 1 else median_time(passages)


@dataclass(frozen=True)
class Analysis:
    """Everything that figures, tables and words are made of.

    :param scores: final scores, as they are
    :param env_ids: the environments that all algorithms have, over which is aggregated
    :param normalisation: of the scores over these
    :param normalised: ``(runs, tasks)`` of each algorithm; failed runs count with the lowest score on their task
    :param seeds: of the rows of each
    :param aggregates: of each algorithm the numbers of :data:`AGGREGATES`; from one run their limits are nan
    :param pairs: every algorithm against every other one; empty where one of them has a single run
    :param tasks: algorithm by algorithm on each environment
    :param reaches: where there are thresholds
    """

    scores: Scores
    env_ids: tuple[str, ...]
    normalisation: Normalisation
    normalised: Mapping[str, Floats]
    seeds: Mapping[str, tuple[int, ...]]
    aggregates: Mapping[str, Mapping[str, Interval]]
    pairs: Sequence[Comparison]
    tasks: Sequence[TaskSummary]
    reaches: Sequence[Reach]

    @property
    def of_failures(self) -> str:
        """How runs without a score count, a sentence for wherever such a number is shown; empty where all have one."""
        n_failed = len(self.scores.failed())
        if not n_failed:
            return ""
        return f" Runs without a final score ({n_failed} here) count with the lowest of any run on their environment."

    @property
    def fewest(self) -> int:
        """The smallest number of runs that an algorithm has on an environment."""
        return min((len(runs) for runs in self.scores.values.values()), default=0)


def analyse(
    records: Sequence[Record],
    thresholds: Mapping[str, float] | None = None,
    scale: Mapping[str, tuple[float, float]] | None = None,
) -> Analysis:
    """The statistics of all runs.

    :param thresholds: a score for each environment whose first time is of interest
    :param scale: the scores of each environment that become 0 and 1; by default the lowest and the highest of any
        run here
    :raises ValueError: if no algorithm has a score, or no environment is shared by all of them
    """
    scores = scores_of(records, "final")
    whole = scores.counting_failures()
    env_ids = tuple(env for env in scores.env_ids if all((label, env) in scores.values for label in scores.labels))
    if not env_ids:
        raise ValueError(f"no environment has runs of all of {', '.join(scores.labels)}: leave one of them out")
    shared = Scores(scores.metric, scores.labels, env_ids, whole.values)
    raw = {label: shared.matrix(label) for label in scores.labels}
    for label, matrix in raw.items():
        if not matrix.size:
            raise ValueError(f"no seed of {label} has runs on all of {', '.join(env_ids)}: train the missing ones")
        if not np.isfinite(matrix).all():
            raise ValueError(f"no run has a finite score on one of {', '.join(env_ids)}: there is nothing to compare")
    normalisation = _normalisation(raw, env_ids, scale)
    normalised = {label: normalisation(matrix) for label, matrix in raw.items()}
    seeds = {label: shared.seeds(label) for label in scores.labels}
    several = len(scores.labels) > 1 and all(len(matrix) > 1 for matrix in raw.values())
    return Analysis(
        scores=scores,
        env_ids=env_ids,
        normalisation=normalisation,
        normalised=normalised,
        seeds=seeds,
        aggregates={
            label: {name: interval(statistic, matrix) for name, statistic in AGGREGATES.items()}
            for label, matrix in normalised.items()
        },
        pairs=compare_pairs(normalised, seeds) if several else (),
        tasks=_tasks(records, scores, whole),
        reaches=_reaches(records, thresholds or {}),
    )


def interval(statistic: Statistic, matrix: Floats) -> Interval:
    """A statistic with its bootstrap interval; from one run there is none, and its limits are nan.

    :param matrix: ``(runs, tasks)``
    """
    if len(matrix) > 1:
        return bootstrap_interval(statistic, matrix)
    return Interval(float(statistic(matrix)), np.nan, np.nan, LEVEL)


def _normalisation(
    raw: Mapping[str, Floats], env_ids: Sequence[str], scale: Mapping[str, tuple[float, float]] | None
) -> Normalisation:
    if scale is not None:
        missing = [env_id for env_id in env_ids if env_id not in scale]
        if missing:
            raise ValueError(f"there is no scale for {', '.join(missing)}: give the scores that become 0 and 1 there")
        return between([scale[env_id][0] for env_id in env_ids], [scale[env_id][1] for env_id in env_ids])
    every_run = np.concatenate(list(raw.values()))
    low, high = every_run.min(axis=0), every_run.max(axis=0)
    # Where all runs score the same, nobody is ahead: all of them are 1
    return Normalisation("min-max over all runs", np.where(low == high, low - 1, low), high)


def _tasks(records: Sequence[Record], scores: Scores, whole: Scores) -> list[TaskSummary]:
    others = {metric: scores_of(records, metric) for metric in METRICS if metric != scores.metric}
    return [
        _task(label, env_id, scores, whole, others)
        for env_id in scores.env_ids
        for label in scores.labels
        if (label, env_id) in scores.values
    ]


def _task(label: str, env_id: str, scores: Scores, whole: Scores, others: Mapping[str, Scores]) -> TaskSummary:
    own, counted = scores.of(label, env_id), whole.of(label, env_id)
    return TaskSummary(
        algorithm=label,
        env_id=env_id,
        n_runs=len(own),
        n_failed=int((~np.isfinite(own)).sum()),
        final=interval(mean, counted[:, None]),
        iqm=float(iqm(counted[:, None])),
        lowest=float(counted.min()),
        highest=float(counted.max()),
        others={metric: _mean_of_finite(one.of(label, env_id)) for metric, one in others.items()},
    )


def _mean_of_finite(scores: Floats) -> float:
    finite = scores[np.isfinite(scores)]
    return float(finite.mean()) if len(finite) else float("nan")


def _reaches(records: Sequence[Record], thresholds: Mapping[str, float]) -> list[Reach]:
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        if record.env_id in thresholds and record.evaluations is not None and len(record.evaluations.steps):
            groups.setdefault((record.algorithm, record.env_id), []).append(record)
    return [
        Reach(
            algorithm=label,
            env_id=env_id,
            threshold=thresholds[env_id],
            steps=_passages(own, "steps", thresholds[env_id]),
            seconds=_passages(own, "seconds", thresholds[env_id]),
        )
        for (label, env_id), own in groups.items()
    ]


def _passages(records: Sequence[Record], axis: str, threshold: float) -> list[Passage]:
    """When each run passed the threshold; nothing if one of them does not say when its evaluations were."""
    passages = []
    for record in records:
        when = times(record, axis)
        if when is None or record.evaluations is None:
            return []
        # What is not finite has not reached anything
        scores = np.nan_to_num(record.evaluations.scores, nan=np.finfo(np.float64).min)
        passages.append(first_passage(when, scores, threshold))
    return passages
