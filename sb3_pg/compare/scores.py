"""From runs to scores: one number a run, each named for what it is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sb3_pg.compare.records import Floats, Record
from sb3_pg.statistics import area_under_curve

#: Training episodes that a training score is the mean of, as in SB3's ``rollout/ep_rew_mean``.
WINDOW = 100

#: What can be asked of a run, and what it is in words.
METRICS: Mapping[str, str] = {
    "final": "mean return of the last evaluation",
    "best": "highest mean return of any evaluation; chosen by its own result, so it flatters whoever varies most",
    "area": "mean of the evaluation curve over the environment steps (area under the curve by its length)",
    "training": f"mean return of the last {WINDOW} training episodes, of the stochastic policy",
}


@dataclass(frozen=True)
class Scores:
    """One metric of every run.

    :param metric: one of :data:`METRICS`
    :param labels: the algorithms, in the order in which they were given
    :param env_ids: the environments
    :param values: of each algorithm and environment the seeds, ascending, with their scores; nan where a run failed,
        diverged, or lacks what the metric needs
    """

    metric: str
    labels: tuple[str, ...]
    env_ids: tuple[str, ...]
    values: Mapping[tuple[str, str], Mapping[int, float]]

    def of(self, label: str, env_id: str) -> Floats:
        """The scores of an algorithm on an environment; shape ``(runs,)``."""
        return np.array(list(self.values.get((label, env_id), {}).values()), dtype=np.float64)

    def seeds(self, label: str) -> tuple[int, ...]:
        """The seeds that an algorithm has on every environment."""
        per_task = [set(self.values.get((label, env_id), {})) for env_id in self.env_ids]
        return tuple(sorted(set.intersection(*per_task))) if per_task else ()

    def matrix(self, label: str, seeds: Sequence[int] | None = None) -> Floats:
        """Scores of shape ``(runs, tasks)``.

        :param seeds: the rows; by default all that the algorithm has on every environment
        """
        rows = self.seeds(label) if seeds is None else seeds
        scores = [[self.values[label, env_id][seed] for env_id in self.env_ids] for seed in rows]
        return np.array(scores, dtype=np.float64).reshape(len(rows), len(self.env_ids))

    def failed(self) -> list[tuple[str, str, int]]:
        """The runs without a finite score."""
        return [
            (*key, seed) for key, runs in self.values.items() for seed, one in runs.items() if not math.isfinite(one)
        ]

    def counting_failures(self) -> Scores:
        """With the lowest score of any run on the same environment in the place of a run that has none.

        To leave such runs out would reward an algorithm for breaking.
        """
        lowest = {env_id: self._lowest(env_id) for env_id in self.env_ids}
        filled = {
            key: {seed: one if math.isfinite(one) else lowest[key[1]] for seed, one in runs.items()}
            for key, runs in self.values.items()
        }
        return Scores(self.metric, self.labels, self.env_ids, filled)

    def _lowest(self, env_id: str) -> float:
        scores = np.concatenate([self.of(label, env_id) for label in self.labels])
        return float(np.min(scores[np.isfinite(scores)], initial=np.inf))


def score(record: Record, metric: str) -> float:
    """What a run reached; nan if it failed or lacks what the metric needs.

    :param metric: one of :data:`METRICS`
    :raises ValueError: for another
    """
    if metric not in METRICS:
        raise ValueError(f"there is no metric {metric!r}: write one of {', '.join(METRICS)}")
    if record.error:
        return math.nan
    if metric == "training":
        episodes = record.episodes
        return math.nan if episodes is None or not len(episodes.returns) else float(episodes.returns[-WINDOW:].mean())
    if record.evaluations is None or not len(record.evaluations.steps):
        return math.nan
    steps, scores = record.evaluations.steps, record.evaluations.scores
    if metric == "area":
        is_curve = len(steps) > 1 and np.isfinite(scores).all()
        return area_under_curve(steps, scores) if is_curve else math.nan
    return float(scores[-1] if metric == "final" else scores.max())


def scores_of(records: Sequence[Record], metric: str) -> Scores:
    """One metric of every run.

    Runs that do not say their seed are numbered in the order in which they are given, from where the others end.
    """
    labels = tuple(dict.fromkeys(record.algorithm for record in records))
    env_ids = tuple(dict.fromkeys(record.env_id for record in records))
    values: dict[tuple[str, str], dict[int, float]] = {}
    for record in sorted(records, key=lambda one: (one.seed is None, one.seed or 0)):
        own = values.setdefault((record.algorithm, record.env_id), {})
        own[record.seed if record.seed is not None else max(own, default=-1) + 1] = score(record, metric)
    return Scores(metric, labels, env_ids, values)
