"""The mathematics: pure functions on tensors, without environment, logger or algorithm."""

from sb3_pg.estimators.baselines import (
    BATCH_BASELINES,
    batch_mean,
    leave_one_out,
    optimal_constant,
    time_leave_one_out,
    time_mean,
)
from sb3_pg.estimators.episodes import EpisodeIndex, discounted_suffix_sum, segment_cumulative_sum, segment_sum
from sb3_pg.estimators.importance import (
    EPISODE_LEVELS,
    LEVELS,
    Importance,
    effective_sample_size,
    importance_weights,
    kl_estimate,
    log_mixture,
    log_ratio,
    overflow_limit,
    path_log_ratio,
    per_decision_credit,
    self_normalized,
)
from sb3_pg.estimators.reductions import LossReduction, loss_divisor
from sb3_pg.estimators.returns import (
    discount_factors,
    generalized_advantage,
    reward_to_go,
    total_return,
    vtrace_advantage,
)
from sb3_pg.estimators.surrogates import clipped_surrogate, score_function_surrogate
from sb3_pg.estimators.variance import (
    covariance_trace,
    gradient_snr,
    gradient_variance,
    mean_pairwise_cosine,
    mean_sq_norm,
    noise_scale,
)

__all__ = [
    "BATCH_BASELINES",
    "EPISODE_LEVELS",
    "LEVELS",
    "EpisodeIndex",
    "Importance",
    "LossReduction",
    "batch_mean",
    "clipped_surrogate",
    "covariance_trace",
    "discount_factors",
    "discounted_suffix_sum",
    "effective_sample_size",
    "generalized_advantage",
    "gradient_snr",
    "gradient_variance",
    "importance_weights",
    "kl_estimate",
    "leave_one_out",
    "log_mixture",
    "log_ratio",
    "loss_divisor",
    "mean_pairwise_cosine",
    "mean_sq_norm",
    "noise_scale",
    "optimal_constant",
    "overflow_limit",
    "path_log_ratio",
    "per_decision_credit",
    "reward_to_go",
    "score_function_surrogate",
    "segment_cumulative_sum",
    "segment_sum",
    "self_normalized",
    "time_leave_one_out",
    "time_mean",
    "total_return",
    "vtrace_advantage",
]
