"""Baselines: what is subtracted from a return to lower the variance of the gradient.

Every function but the last takes the returns of a batch, ``(n_rows,)`` as :mod:`sb3_pg.estimators.returns` makes them,
and gives the baseline of each row, ``(n_rows,)``. The return of an episode, G_i, is the one at its first row.

``all_sum`` adds a tensor up over the workers of a data-parallel run; the default is a run of one. The baselines of each
step give it vectors as long as the worker's longest episode, of which a shorter one is to count as going on with zeros,
and take back as much of the sum. A worker may have no episode.
"""

from __future__ import annotations

from collections.abc import Callable

import torch as th

from sb3_pg.estimators.episodes import EpisodeIndex, check_rows

AllSum = Callable[[th.Tensor], th.Tensor]


def alone(tensor: th.Tensor) -> th.Tensor:
    """The sum over the workers of a run that has only one."""
    return tensor


def batch_mean(returns: th.Tensor, episodes: EpisodeIndex, all_sum: AllSum = alone) -> th.Tensor:
    """b = (1/N) sum_i G_i.

    The episode's own return is part of the mean, which shrinks the expected gradient to (1 - 1/N) grad J.

    :param returns: ``(n_rows,)``
    :return: ``(n_rows,)``
    """
    total, count = _episode_totals(returns, episodes, all_sum)
    return (total / count).expand(episodes.n_rows)


def leave_one_out(returns: th.Tensor, episodes: EpisodeIndex, all_sum: AllSum = alone) -> th.Tensor:
    """b_i = (1/(N-1)) sum_{j != i} G_j: independent of episode i, so the gradient is unbiased.

    Kool et al. 2019, "Buy 4 REINFORCE samples, get a baseline for free!".

    :param returns: ``(n_rows,)``
    :return: ``(n_rows,)``
    :raises ValueError: with one episode, which has no others.
    """
    total, count = _episode_totals(returns, episodes, all_sum)
    if count < 2:
        raise ValueError(
            f"leave_one_out needs at least 2 episodes, got {int(count)}: write baseline='none' or use more episodes"
        )
    own = returns[episodes.first_row]
    return ((total - own) / (count - 1))[episodes.episode]


def group_leave_one_out(
    returns: th.Tensor, episodes: EpisodeIndex, group: th.Tensor, all_sum: AllSum = alone
) -> th.Tensor:
    """b_i = mean of G_j over the others of its group, or where it has none, of all others. Unbiased.

    Episodes of a group begin alike, such as completions of one prompt: what is common to them is no merit of an action.
    As in RLOO (Kool et al. 2019; Ahmadian et al. 2024, arXiv 2402.14740), and without GRPO's division by the group's
    deviation, which is biased towards prompts whose returns hardly differ.

    :param returns: ``(n_rows,)``
    :param group: ``(n_episodes,)`` numbers from 0, of this worker's groups: others have theirs
    :return: ``(n_rows,)``; 0 for an episode that is the only one of all
    """
    check_rows("group", group, episodes.n_episodes)
    total, count = _episode_totals(returns, episodes, all_sum)
    own = returns[episodes.first_row]
    zeros = own.new_zeros(int(group.max()) + 1 if len(group) else 0)
    group_total, group_count = zeros.index_add(0, group, own), zeros.index_add(0, group, th.ones_like(own))
    others, companions = count - 1, group_count[group] - 1
    of_all = (total - own) / others.clamp(min=1)
    of_group = (group_total[group] - own) / companions.clamp(min=1)
    return th.where(companions > 0, of_group, th.where(others > 0, of_all, 0.0))[episodes.episode]


def time_mean(returns: th.Tensor, episodes: EpisodeIndex, all_sum: AllSum = alone) -> th.Tensor:
    """b_t = mean of G[j,t] over the episodes j that are still alive at t.

    Where lengths differ, fewer episodes share the mean at late steps, which shrinks those steps more than early
    ones: the expected direction is biased. ``time_leave_one_out`` is the unbiased relative.

    :param returns: ``(n_rows,)``
    :return: ``(n_rows,)``
    """
    total, alive = _step_totals(returns, episodes, all_sum)
    return (total / alive)[episodes.step]


def time_leave_one_out(returns: th.Tensor, episodes: EpisodeIndex, all_sum: AllSum = alone) -> th.Tensor:
    """b[i,t] = mean of G[j,t] over the other episodes alive at t, 0 where there are none. Unbiased.

    :param returns: ``(n_rows,)``
    :return: ``(n_rows,)``
    """
    total, alive = _step_totals(returns, episodes, all_sum)
    others = alive[episodes.step] - 1
    return th.where(others > 0, (total[episodes.step] - returns) / others.clamp(min=1), 0.0)


def optimal_constant(dots: th.Tensor, score_sq_norms: th.Tensor, all_sum: AllSum = alone) -> th.Tensor:
    """b = sum_i <R_i, S_i> / sum_i |S_i|^2, the constant that minimises the variance of the estimate R_i - b S_i.

    S_i = sum_t w[i,t] s[i,t] and R_i = sum_t w[i,t] s[i,t] G[i,t], with the scores s of an episode's steps, the returns
    G in use and everything else that multiplies a score, w (gamma^t, importance weights). With total returns, R_i is
    S_i G_i, and this is the constant of Greensmith, Bartlett & Baxter 2004, "Variance reduction techniques for gradient
    estimates in reinforcement learning"; with rewards to go theirs is not optimal. Estimated on the batch that it is
    used on, hence biased by O(1/N), mostly towards a smaller gradient.

    :param dots: ``(n_episodes,)`` <R_i, S_i>
    :param score_sq_norms: ``(n_episodes,)`` |S_i|^2
    :return: scalar; 0 where every score vanishes
    """
    check_rows("score_sq_norms", score_sq_norms, len(score_sq_norms))
    check_rows("dots", dots, len(score_sq_norms))
    weighted, norm = all_sum(dots.sum()), all_sum(score_sq_norms.sum())
    return th.where(norm > 0, weighted / norm, 0.0)


#: The baseline that needs to know which episodes begin alike, by its name.
GROUP_BASELINE = "group_leave_one_out"
#: The baselines that need nothing but the returns of the batch, by the name that the algorithms' ``baseline`` takes.
BATCH_BASELINES: dict[str, Callable[[th.Tensor, EpisodeIndex, AllSum], th.Tensor]] = {
    "batch_mean": batch_mean,
    "time_mean": time_mean,
    "leave_one_out": leave_one_out,
    "time_leave_one_out": time_leave_one_out,
}


def _episode_totals(returns: th.Tensor, episodes: EpisodeIndex, all_sum: AllSum) -> tuple[th.Tensor, th.Tensor]:
    """Sum of the episodes' returns and their number, over all workers."""
    check_rows("returns", returns, episodes.n_rows)
    own = returns[episodes.first_row]
    return all_sum(own.sum()), all_sum(own.new_tensor(float(len(own))))


def _step_totals(returns: th.Tensor, episodes: EpisodeIndex, all_sum: AllSum) -> tuple[th.Tensor, th.Tensor]:
    """Per step t: the sum of the returns and the number of episodes alive, ``(longest episode,)`` each."""
    check_rows("returns", returns, episodes.n_rows)
    zeros = returns.new_zeros(int(episodes.step.max()) + 1 if episodes.n_rows else 0)
    total = zeros.index_add(0, episodes.step, returns)
    alive = zeros.index_add(0, episodes.step, th.ones_like(returns))
    return all_sum(total), all_sum(alive)
