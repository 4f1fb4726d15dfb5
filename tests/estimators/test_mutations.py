"""For every mistake that others made, the test that catches it.

A mutation replaces a piece of the source of one function (or class), everywhere that function is known by its name. The
named test passes without it and fails with it.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch as th

from sb3_pg import estimators as est
from sb3_pg.estimators import episodes as episodes_module
from sb3_pg.estimators import returns as returns_module
from tests.helpers.enumeration import PAIRS, SMALL, joint_log_prob
from tests.helpers.spies import replace_everywhere


@dataclass(frozen=True)
class Mutation:
    """A mistake, and the test that catches it.

    :param mistake: what is wrong with the mutant.
    :param target: the function or class that is mutated.
    :param original: the piece of its source that is replaced; there is exactly one.
    :param mutant: what it is replaced by.
    :param caught_by: the name of the test, in whichever module beside this one it is.
    :param arguments: the parameters that the test is run with.
    """

    mistake: str
    target: Any
    original: str
    mutant: str
    caught_by: str
    arguments: tuple[Any, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.mistake}: {self.caught_by}"


MUTATIONS = [
    # Returns
    Mutation(
        "a return leaks over the end of its episode",
        est.discounted_suffix_sum,
        "remaining[:-span] >= span",
        "remaining[:-span] >= span - 1",
        "test_returns_do_not_leak_over_the_end_of_an_episode",
    ),
    Mutation(
        "a return skips its own reward",
        est.discounted_suffix_sum,
        "return sums",
        "return sums - values",
        "test_reward_to_go_of_one_episode",
        ([1, 0, 3, 2], 1.0, [6, 5, 5, 2]),
    ),
    Mutation(
        "a return loses its last reward",
        est.discounted_suffix_sum,
        "sums = values.clone()",
        "sums = values * (episodes.remaining > 0)",
        "test_reward_to_go_of_one_episode",
        ([10, 1, 2, 3], 1.0, [16, 6, 5, 3]),
    ),
    Mutation(
        "the reward at the end is added twice",
        est.reward_to_go,
        "_with_last_values(rewards, episodes, gamma, last_values)",
        "rewards.index_add(0, episodes.last_row, rewards[episodes.last_row])",
        "test_reward_to_go_of_one_episode",
        ([10, 1, 2, 3], 1.0, [16, 6, 5, 3]),
    ),
    Mutation(
        "the discount of a doubled span is not squared",
        est.discounted_suffix_sum,
        "if factor.ndim else here * there",
        "if factor.ndim else here",
        "test_reward_to_go_of_one_episode",
        ([1, 0, 3, 2], 0.5, [2, 2, 4, 2]),
    ),
    Mutation(
        "gamma^t is missing from the gradient",
        est.discount_factors,
        "** episodes.step",
        "** (0 * episodes.step)",
        "test_without_a_baseline_the_gradient_is_exact",
        ("reward_to_go", 0.8, True),
    ),
    Mutation(
        "discounting starts at gamma^1",
        est.discount_factors,
        "** episodes.step",
        "** (episodes.step + 1)",
        "test_without_a_baseline_the_gradient_is_exact",
        ("reward_to_go", 0.8, True),
    ),
    Mutation(
        "gamma^t counts from the edge of the batch",
        est.discount_factors,
        "** episodes.step",
        "** episodes.position",
        "test_an_episode_whose_beginning_is_missing_counts_from_its_true_step",
    ),
    Mutation(
        "gamma^t is missing from the total return",
        est.total_return,
        "** episodes.position",
        "** (0 * episodes.position)",
        "test_without_a_baseline_the_gradient_is_exact",
        ("total", 0.8, False),
    ),
    Mutation(
        "the value of a cut episode is not discounted",
        returns_module._with_last_values,
        "gamma * last_values.to",
        "last_values.to",
        "test_bootstrapping_a_cut_episode_with_the_exact_value_changes_nothing",
        ("reward_to_go", 0.8),
    ),
    Mutation(
        "the buffer's rewards are contaminated by the value of a cut episode",
        returns_module._with_last_values,
        "rewards.index_add(",
        "rewards.index_add_(",
        "test_last_values_are_discounted_to_each_step",
    ),
    Mutation(
        "an advantage takes the next value from the next episode",
        est.generalized_advantage,
        "episodes.remaining > 0",
        "episodes.remaining >= 0",
        "test_gae_between_its_two_ends",
    ),
    Mutation(
        "a time limit is bootstrapped with V(s) instead of V(s')",
        est.generalized_advantage,
        "values.roll(-1)",
        "values",
        "test_gae_with_the_exact_values_is_exact",
        (0.6, 1.0),
    ),
    Mutation(
        "GAE decays by lambda without gamma",
        est.generalized_advantage,
        "gamma * gae_lambda)",
        "gae_lambda)",
        "test_gae_between_its_two_ends",
    ),
    Mutation(
        "V-trace weighs a step's own ratio instead of the next one's",
        est.vtrace_advantage,
        "ratios.roll(-1)",
        "ratios",
        "test_vtrace_without_a_limit_is_the_advantage_of_theta_whatever_v_is",
        (0.8,),
    ),
    Mutation(
        "products of ratios do not double",
        est.discounted_suffix_sum,
        "th.cat([here * there, factor[-span:]])",
        "th.cat([here, factor[-span:]])",
        "test_vtrace_without_a_limit_is_the_advantage_of_theta_whatever_v_is",
        (0.8,),
    ),
    # Baselines
    Mutation(
        "leave-one-out leaves nobody out",
        est.leave_one_out,
        "(total - own) / (count - 1)",
        "(total - 0 * own) / count",
        "test_leave_one_out_is_exact",
        (SMALL, 3, "total", 1.0, False, "leave_one_out"),
    ),
    Mutation(
        "leave-one-out subtracts the neighbour's return",
        est.leave_one_out,
        "own = returns[episodes.first_row]",
        "own = returns[episodes.first_row].roll(1)",
        "test_leave_one_out_is_exact",
        (SMALL, 3, "total", 1.0, False, "leave_one_out"),
    ),
    Mutation(
        "the mean is taken over steps, not episodes",
        est.batch_mean,
        "(total / count)",
        "returns.mean()",
        "test_batch_mean_shrinks_the_gradient_and_keeps_its_direction",
        (PAIRS, 2, "total", 1.0),
    ),
    Mutation(
        "the mean is that of an episode's own steps",
        est.batch_mean,
        "return (total / count).expand(episodes.n_rows)",
        "return th.zeros_like(total).expand(episodes.n_episodes).index_add("
        "0, episodes.episode, returns / episodes.lengths[episodes.episode])[episodes.episode]",
        "test_batch_mean_shrinks_the_gradient_and_keeps_its_direction",
        (PAIRS, 2, "reward_to_go", 1.0),
    ),
    Mutation(
        "a mean over the living is divided by all",
        est.time_mean,
        "total / alive",
        "total / episodes.n_episodes",
        "test_time_mean_shrinks_every_step_by_its_own_factor",
        (SMALL, 3),
    ),
    Mutation(
        "the episode is one of its own peers",
        est.time_leave_one_out,
        "(total[episodes.step] - returns)",
        "total[episodes.step]",
        "test_leave_one_out_is_exact",
        (SMALL, 3, "reward_to_go", 1.0, False, "time_leave_one_out"),
    ),
    Mutation(
        "without peers the baseline is the episode's own return",
        est.time_leave_one_out,
        "clamp(min=1), 0.0)",
        "clamp(min=1), returns)",
        "test_leave_one_out_is_exact",
        (SMALL, 3, "reward_to_go", 1.0, False, "time_leave_one_out"),
    ),
    Mutation(
        "the optimal constant weighs by the norm, not its square",
        est.optimal_constant,
        "all_sum(score_sq_norms.sum())",
        "all_sum(score_sq_norms.sqrt().sum())",
        "test_optimal_constant_minimises_the_variance",
        ("total", False),
    ),
    # Loss
    Mutation(
        "the weights are not detached",
        est.score_function_surrogate,
        "weights.detach() * log_prob",
        "weights * log_prob",
        "test_timestep_weights_follow_the_surrogate_of_trpo",
        (False,),
    ),
    Mutation(
        "mean(log pi) times sum(weights)",
        est.score_function_surrogate,
        "(weights.detach() * log_prob).sum()",
        "weights.detach().sum() * log_prob.mean()",
        "test_one_backward_pass_is_the_literal_loop",
        ("episode",),
    ),
    Mutation(
        "the sum over the episodes is divided by the number of steps",
        est.loss_divisor,
        'if loss_reduction == "episode":\n        return counts[1]',
        'if loss_reduction == "episode":\n        return counts[0]',
        "test_only_a_divisor_that_does_not_know_the_lengths_keeps_the_direction",
        (PAIRS, 1),
    ),
    Mutation(
        "the mean length is that of this batch",
        est.loss_divisor,
        "return counts[1] * mean_length",
        "return counts[0]",
        "test_only_a_divisor_that_does_not_know_the_lengths_keeps_the_direction",
        (PAIRS, 1),
    ),
    Mutation(
        "the first action dimension stands for the joint log-prob",
        joint_log_prob,
        "per_dimension.sum(dim=-1)",
        "per_dimension[:, 0]",
        "test_the_log_prob_of_an_action_is_the_joint_one",
    ),
    Mutation(
        "the mean over action dimensions stands for the joint log-prob",
        joint_log_prob,
        "per_dimension.sum(dim=-1)",
        "per_dimension.mean(dim=-1)",
        "test_the_log_prob_of_an_action_is_the_joint_one",
    ),
    Mutation(
        "a per-dimension log-prob is broadcast",
        est.score_function_surrogate,
        "if log_prob.ndim != 1:",
        "if log_prob.ndim < 1:",
        "test_a_log_prob_for_each_action_dimension_is_refused",
    ),
    Mutation(
        "n against n x 1 is broadcast",
        episodes_module.check_rows,
        "if tuple(values.shape) != (n_rows,):",
        "if values.numel() != n_rows:",
        "test_a_wrong_number_of_rows_is_refused",
        ("weights", lambda weights: est.score_function_surrogate(th.ones(3), weights, 1.0)),
    ),
    # Importance weights
    Mutation(
        "no ratio on a batch of another policy",
        est.log_ratio,
        "log_prob - behaviour_log_prob",
        "log_prob - log_prob",
        "test_products_over_the_path_are_unbiased",
        ("trajectory", "total", 1.0),
    ),
    Mutation(
        "the ratio is upside down",
        est.log_ratio,
        "log_prob - behaviour_log_prob",
        "behaviour_log_prob - log_prob",
        "test_timestep_weights_follow_the_surrogate_of_trpo",
        (False,),
    ),
    Mutation(
        "the ratio is taken outside of log space",
        est.log_ratio,
        "log_prob - behaviour_log_prob",
        "(log_prob.exp() / behaviour_log_prob.exp()).log()",
        "test_ratios_go_through_log_space",
    ),
    Mutation(
        "the log-probs are rounded before their difference is taken",
        est.log_ratio,
        "return log_prob - behaviour_log_prob",
        "return log_prob.half().to(log_prob.dtype) - behaviour_log_prob.half().to(log_prob.dtype)",
        "test_a_long_episode_of_unlikely_actions_has_its_weight_in_single_precision",
    ),
    Mutation(
        "the weight of a trajectory is its mean ratio",
        est.path_log_ratio,
        "segment_sum(log_ratios, episodes)[episodes.episode]",
        "(segment_sum(log_ratios, episodes) / episodes.lengths)[episodes.episode]",
        "test_products_over_the_path_are_unbiased",
        ("trajectory", "total", 0.8),
    ),
    Mutation(
        "per-decision products end before their own step",
        est.path_log_ratio,
        "return segment_cumulative_sum(log_ratios, episodes)",
        "return segment_cumulative_sum(log_ratios, episodes) - log_ratios",
        "test_products_over_the_path_are_unbiased",
        ("per_decision", "reward_to_go", 1.0),
    ),
    Mutation(
        "trajectory products end at the step that they weigh",
        est.path_log_ratio,
        'if importance == "trajectory":',
        "if not episodes:",
        "test_leave_one_out_is_unbiased_under_products",
        ("trajectory", "total", 1.0, 2),
    ),
    Mutation(
        '"none" corrects after all',
        est.path_log_ratio,
        "return th.zeros_like(log_ratios)",
        "return log_ratios",
        "test_without_weights_the_actions_stay_those_of_the_behaviour",
    ),
    Mutation(
        "a product runs on from the episode before it",
        est.segment_cumulative_sum,
        "discounted_suffix_sum(values.flip(0), backwards, 1.0).flip(0)",
        "values.cumsum(0)",
        "test_a_running_sum_does_not_leak_into_the_next_episode",
    ),
    Mutation(
        "an episode's product loses its first ratio",
        est.segment_cumulative_sum,
        "1.0).flip(0)",
        "1.0).flip(0) - values[episodes.first_row][episodes.episode]",
        "test_the_products_of_each_level",
        ("per_decision", [2, 1, 3, 5, 20, 20]),
    ),
    Mutation(
        "running sums remember the episodes before until they cancel",
        est.segment_cumulative_sum,
        "discounted_suffix_sum(values.flip(0), backwards, 1.0).flip(0)",
        "values.cumsum(0) - (values.cumsum(0) - values)[episodes.first_row][episodes.episode]",
        "test_a_running_sum_does_not_leak_into_the_next_episode",
    ),
    Mutation(
        "a reward has the weight of the step that it is credited to",
        est.per_decision_credit,
        "discounted_suffix_sum(weights * rewards, episodes, gamma)",
        "weights * discounted_suffix_sum(rewards, episodes, gamma)",
        "test_products_over_the_path_are_unbiased",
        ("per_decision", "reward_to_go", 1.0),
    ),
    Mutation(
        "the baseline of weighted rewards has no weight",
        est.per_decision_credit,
        "- weights * baseline",
        "- baseline",
        "test_a_critic_changes_no_expectation_but_one_that_knows_the_action_does",
        ("per_decision", 1.0),
    ),
    Mutation(
        "leave-one-out under weighted rewards has no weight",
        est.per_decision_credit,
        "- weights * baseline",
        "- baseline",
        "test_leave_one_out_is_unbiased_under_products",
        ("per_decision", "reward_to_go", 1.0, 2),
    ),
    Mutation(
        "weighted rewards are not discounted",
        est.per_decision_credit,
        "episodes, gamma)",
        "episodes, 1.0)",
        "test_the_balance_heuristic_is_unbiased",
        ((1, 3), "per_decision", "reward_to_go", 0.8),
    ),
    Mutation(
        "the mixture ignores how much each policy sampled",
        est.log_mixture,
        "shares.to(path_log_ratios).log()",
        "shares.to(path_log_ratios).mean().log()",
        "test_the_balance_heuristic_is_unbiased",
        ((1, 3), "trajectory", "total", 1.0),
    ),
    Mutation(
        "the mixture is its likeliest policy",
        est.log_mixture,
        ".logsumexp(dim=1)",
        ".amax(dim=1)",
        "test_the_balance_heuristic_is_unbiased",
        ((1, 1), "per_decision", "reward_to_go", 1.0),
    ),
    Mutation(
        "the mixture is the geometric mean of the policies",
        est.log_mixture,
        "(path_log_ratios + shares.to(path_log_ratios).log()).logsumexp(dim=1)",
        "path_log_ratios @ shares.to(path_log_ratios)",
        "test_the_balance_heuristic_of_single_ratios_mixes_the_actions_only",
        ((1, 1),),
    ),
    Mutation(
        "the log of the weight is truncated at the weight",
        est.importance_weights,
        "min(math.log(max_weight),",
        "min(max_weight,",
        "test_truncated_weights_have_the_bias_of_truncated_weights",
        (1.5,),
    ),
    Mutation(
        "weights above the limit are dropped",
        est.importance_weights,
        "return log_weights.clamp(max=min(math.log(max_weight), overflow_limit(log_weights.dtype))).exp()",
        "return th.where(log_weights <= math.log(max_weight), log_weights.exp(), 0.0)",
        "test_truncated_weights",
    ),
    Mutation(
        "a weight is infinite",
        est.importance_weights,
        "max=min(math.log(max_weight), overflow_limit(log_weights.dtype))",
        "max=math.log(max_weight)",
        "test_no_weight_overflows",
        (th.float32,),
    ),
    Mutation(
        "the square of a weight is infinite",
        est.overflow_limit,
        "/ 2 - 10",
        "- 10",
        "test_no_weight_overflows",
        (th.float64,),
    ),
    Mutation(
        "the defensive mixture has the two policies the wrong way round",
        est.importance_weights,
        "math.log1p(-defensive_coef), math.log(defensive_coef)",
        "math.log(defensive_coef), math.log1p(-defensive_coef)",
        "test_a_defensive_mixture_that_was_sampled_is_unbiased",
        ((4, 1), "trajectory"),
    ),
    Mutation(
        "the defensive mixture is an upside down weight",
        est.importance_weights,
        "-th.logaddexp(of_q - log_weights,",
        "-th.logaddexp(of_q + log_weights,",
        "test_defensive_weights_are_those_of_a_mixture_that_was_not_sampled",
        (0.3,),
    ),
    Mutation(
        "trajectory weights are divided by their sum",
        est.self_normalized,
        "mean = all_sum(weights[episodes.first_row].sum()) / n_episodes",
        "mean = all_sum(weights[episodes.first_row].sum())",
        "test_self_normalised_trajectory_weights_are_a_ratio_of_two_sums",
        (2,),
    ),
    Mutation(
        "trajectory weights are divided by their mean over the rows",
        est.self_normalized,
        "mean = all_sum(weights[episodes.first_row].sum()) / n_episodes",
        "mean = weights.mean()",
        "test_self_normalised_trajectory_weights_are_a_ratio_of_two_sums",
        (2,),
    ),
    Mutation(
        "single ratios are divided by their sum",
        est.self_normalized,
        "all_sum(weights.new_tensor(float(weights.numel())))",
        "1.0",
        "test_self_normalised_weights_have_no_bias_on_policy",
        (2, "timestep"),
    ),
    Mutation(
        "ended episodes drop out of the mean of a step",
        est.self_normalized,
        "(all_sum(running) + all_sum(ended).cumsum(0)) / n_episodes",
        "all_sum(running) / zeros.index_add(0, episodes.position, th.ones_like(weights)).clamp(min=1)",
        "test_self_normalised_weights_of_ragged_episodes",
        ("per_decision", [1, 2, 4, 3], [0.5, 0.8, 8 / 7, 1.5]),
    ),
    Mutation(
        "ended episodes count as 0 in the mean of a step",
        est.self_normalized,
        "all_sum(running) + all_sum(ended).cumsum(0)",
        "all_sum(running)",
        "test_self_normalised_weights_have_no_bias_on_policy",
        (2, "per_decision"),
    ),
    Mutation(
        "an ended episode counts twice at its last step",
        est.self_normalized,
        "index_add(0, episodes.lengths, weights",
        "index_add(0, episodes.lengths - 1, weights",
        "test_self_normalised_weights_have_no_bias_on_policy",
        (2, "per_decision"),
    ),
    Mutation(
        "each worker normalises its weights alone",
        est.self_normalized,
        "mean = all_sum(weights[episodes.first_row].sum()) / n_episodes",
        "mean = weights[episodes.first_row].mean()",
        "test_two_workers_normalise_their_weights_together",
        ("trajectory",),
    ),
    Mutation(
        "weights that are all 0 are divided by 0",
        est.self_normalized,
        "th.where(mean > 0, weights / mean, 0.0)",
        "weights / mean",
        "test_self_normalised_weights_of_ragged_episodes",
        ("trajectory", [0, 0, 0, 0], [0, 0, 0, 0]),
    ),
    Mutation(
        "the sample size is not normalised",
        est.effective_sample_size,
        "1 / (n * all_sum((shares**2).sum()))",
        "1 / all_sum((shares**2).sum())",
        "test_effective_sample_size_falls_geometrically_with_the_length",
        (2,),
    ),
    Mutation(
        "the squares of small weights vanish",
        est.effective_sample_size,
        "1 / (n * all_sum((shares**2).sum()))",
        "total**2 / all_sum((weights**2).sum()) / n",
        "test_the_sample_size_of_small_weights",
    ),
    Mutation(
        "the KL divergence is taken the other way round",
        est.kl_estimate,
        "log_ratios.expm1() - log_ratios",
        "(-log_ratios).expm1() + log_ratios",
        "test_the_estimate_of_the_kl_divergence_is_exact_over_the_old_policys_actions",
    ),
    Mutation(
        "the estimate of the KL divergence is mean(-log rho), which may be negative",
        est.kl_estimate,
        "log_ratios.expm1() - log_ratios",
        "-log_ratios",
        "test_the_estimate_of_the_kl_divergence_is_exact_over_the_old_policys_actions",
    ),
    Mutation(
        "rho - 1 cancels in the estimate of the KL divergence",
        est.kl_estimate,
        "log_ratios.expm1()",
        "(log_ratios.exp() - 1)",
        "test_kl_estimate_by_hand",
    ),
    # The clip
    Mutation(
        "the clip takes the better of the two",
        est.clipped_surrogate,
        "th.min(",
        "th.max(",
        "test_clipped_surrogate_of_one_row",
        (3.0, 2.0),
    ),
    Mutation(
        "the clip holds on both sides, whatever the advantage",
        est.clipped_surrogate,
        "th.min(weights * ratios, weights * ratios.clamp(1 - clip_range, 1 + clip_range))",
        "(weights * ratios.clamp(1 - clip_range, 1 + clip_range))",
        "test_clipped_surrogate_of_one_row",
        (3.0, -2.0),
    ),
    Mutation(
        "nothing is clipped from below",
        est.clipped_surrogate,
        "clamp(1 - clip_range, 1 + clip_range)",
        "clamp(max=1 + clip_range)",
        "test_clipped_surrogate_of_one_row",
        (0.5, -2.0),
    ),
    Mutation(
        "the advantages of the clipped surrogate are not detached",
        est.clipped_surrogate,
        "weights.detach()",
        "weights",
        "test_clipped_surrogate_of_a_batch",
    ),
    Mutation(
        "the log-ratio stands for the ratio",
        est.clipped_surrogate,
        "importance_weights(log_ratios.detach()) * (1 + log_ratios - log_ratios.detach())",
        "log_ratios + 1",
        "test_a_clip_range_beyond_every_ratio_leaves_the_surrogate_of_trpo",
    ),
    # Noise
    Mutation(
        "the variance of the mean is that of one gradient",
        est.gradient_variance,
        "sq_norms.sum()), n) / n",
        "sq_norms.sum()), n)",
        "test_gradient_variance_is_unbiased",
        (2,),
    ),
    Mutation(
        "the variance is divided by n, not n - 1",
        est.covariance_trace,
        "(spread / (n - 1))",
        "(spread / n)",
        "test_gradient_variance_is_unbiased",
        (2,),
    ),
    Mutation(
        "the squared norm of the mean stands for that of the expectation",
        est.mean_sq_norm,
        "(sq_norm_of_sum - sum_of_sq_norms) / (n * (n - 1))",
        "sq_norm_of_sum / n**2",
        "test_squared_norm_of_the_expectation_is_unbiased",
        (2,),
    ),
    Mutation(
        "a gradient is paired with itself",
        est.mean_pairwise_cosine,
        "mean_sq_norm(sq_norm_of_unit_sum, count.expand_as(sq_norm_of_unit_sum), count)",
        "sq_norm_of_unit_sum / count**2",
        "test_mean_pairwise_cosine_by_hand",
    ),
    Mutation(
        "the noise scale is the signal-to-noise ratio",
        est.noise_scale,
        "trace / sq_norm",
        "sq_norm / trace",
        "test_noise_scale_by_hand",
    ),
    # Layout
    Mutation(
        "the step does not start anew with the episode",
        est.EpisodeIndex,
        "offset[episode]",
        "offset[0]",
        "test_episode_index_of_three_episodes",
    ),
    Mutation(
        "the last row is the next episode's first",
        est.EpisodeIndex,
        "return th.cumsum(self.lengths, 0) - 1\n",
        "return th.cumsum(self.lengths, 0).clamp(max=self.n_rows - 1)\n",
        "test_last_values_are_discounted_to_each_step",
    ),
]


@cache
def checks_by_name() -> dict[str, Callable[..., None]]:
    """Every test of the modules beside this one."""
    here = Path(__file__)
    found: dict[str, Callable[..., None]] = {}
    for path in sorted(here.parent.glob("test_*.py")):
        if path != here:
            for name, value in vars(importlib.import_module(f"{__package__}.{path.stem}")).items():
                if name.startswith("test_"):
                    assert name not in found, f"two tests are called {name}"
                    found[name] = value
    return found


def plant(monkeypatch: pytest.MonkeyPatch, mutation: Mutation) -> None:
    """Put the mutant in the place of its target: in every module of ours that knows it, and in the tables of names."""
    target = mutation.target
    source = inspect.getsource(target)
    assert source.count(mutation.original) == 1, f"{mutation.original!r} is not once in {target.__name__}"
    namespace = dict(vars(sys.modules[target.__module__]))
    exec(source.replace(mutation.original, mutation.mutant), namespace)
    mutant = namespace[target.__name__]
    replace_everywhere(monkeypatch, target, mutant, ("sb3_pg", "tests"))
    for name, value in est.BATCH_BASELINES.items():
        if value is target:
            monkeypatch.setitem(est.BATCH_BASELINES, name, mutant)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_the_mutation_is_caught(mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    """The named test passes, and fails by an assertion of its own once the mistake is made."""
    check = partial(checks_by_name()[mutation.caught_by], *mutation.arguments)
    check()
    plant(monkeypatch, mutation)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check()
