"""A batch of no episodes, as a worker may bring it to the others: every estimator takes it and gives none back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch as th

from sb3_pg import estimators as est
from sb3_pg.estimators.baselines import AllSum

NOTHING = th.zeros(0, dtype=th.float64)
EPISODES = est.EpisodeIndex.from_lengths(th.zeros(0, dtype=th.long))


def with_one_of(value: float) -> AllSum:
    """Another worker has that in the place of each number."""
    return lambda tensor: tensor + value


ROWS: dict[str, Callable[[], th.Tensor]] = {
    "reward_to_go": lambda: est.reward_to_go(NOTHING, EPISODES, 0.9, NOTHING),
    "total_return": lambda: est.total_return(NOTHING, EPISODES, 0.9, NOTHING),
    "generalized_advantage": lambda: est.generalized_advantage(NOTHING, NOTHING, EPISODES, 0.9, 0.8, NOTHING),
    "discount_factors": lambda: est.discount_factors(EPISODES, 0.9),
    "discounted_suffix_sum": lambda: est.discounted_suffix_sum(NOTHING, EPISODES, 0.9),
    "segment_sum": lambda: est.segment_sum(NOTHING, EPISODES),
    "segment_cumulative_sum": lambda: est.segment_cumulative_sum(NOTHING, EPISODES),
    "log_ratio": lambda: est.log_ratio(NOTHING, NOTHING),
    "log_mixture": lambda: est.log_mixture(NOTHING[:, None].expand(0, 2), th.tensor([0.5, 0.5])),
    "kl_estimate": lambda: est.kl_estimate(NOTHING),
    "importance_weights": lambda: est.importance_weights(NOTHING, 10.0, 0.1),
    "per_decision_credit": lambda: est.per_decision_credit(NOTHING, NOTHING, NOTHING, EPISODES, 0.9),
    **{
        name: lambda of=of: of(NOTHING, EPISODES, with_one_of(2.0))  # type: ignore[misc]
        for name, of in est.BATCH_BASELINES.items()
    },
    **{
        f"path_log_ratio {level}": lambda level=level: est.path_log_ratio(NOTHING, EPISODES, level)  # type: ignore[misc]
        for level in est.LEVELS
    },
    **{
        f"self_normalized {level}": lambda level=level: est.self_normalized(  # type: ignore[misc]
            NOTHING, EPISODES, level, with_one_of(2.0)
        )
        for level in est.LEVELS
    },
}
SUMS: dict[str, tuple[Callable[[], th.Tensor], float]] = {
    "score_function_surrogate": (lambda: est.score_function_surrogate(NOTHING, NOTHING, 3.0), 0.0),
    "clipped_surrogate": (lambda: est.clipped_surrogate(NOTHING, NOTHING, 0.2, 3.0), 0.0),
    "optimal_constant": (lambda: est.optimal_constant(NOTHING, NOTHING, with_one_of(2.0)), 1.0),
    "loss_divisor": (lambda: est.loss_divisor(EPISODES, "step", None, with_one_of(7)), 7.0),
    "effective_sample_size": (lambda: est.effective_sample_size(NOTHING, with_one_of(1.0)), 1.0),
}


@pytest.mark.parametrize("name", ROWS)
def test_there_are_no_rows(name: str) -> None:
    assert ROWS[name]().shape == (0,)


@pytest.mark.parametrize("name", SUMS)
def test_a_sum_is_what_the_others_have(name: str) -> None:
    of, expected = SUMS[name]
    assert float(of()) == expected
