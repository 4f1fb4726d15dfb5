"""The mathematics: pure functions on tensors, without environment, logger or algorithm."""

from sb3_pg.estimators.baselines import (
    BATCH_BASELINES,
    batch_mean,
    leave_one_out,
    optimal_constant,
    time_leave_one_out,
    time_mean,
)
from sb3_pg.estimators.episodes import EpisodeIndex, discounted_suffix_sum, segment_sum
from sb3_pg.estimators.importance import effective_sample_size, timestep_weights
from sb3_pg.estimators.reductions import LossReduction, loss_divisor
from sb3_pg.estimators.returns import discount_factors, generalized_advantage, reward_to_go, total_return
from sb3_pg.estimators.surrogates import score_function_surrogate
from sb3_pg.estimators.variance import gradient_snr, gradient_variance

__all__ = [
    "BATCH_BASELINES",
    "EpisodeIndex",
    "LossReduction",
    "batch_mean",
    "discount_factors",
    "discounted_suffix_sum",
    "effective_sample_size",
    "generalized_advantage",
    "gradient_snr",
    "gradient_variance",
    "leave_one_out",
    "loss_divisor",
    "optimal_constant",
    "reward_to_go",
    "score_function_surrogate",
    "segment_sum",
    "time_leave_one_out",
    "time_mean",
    "timestep_weights",
    "total_return",
]
