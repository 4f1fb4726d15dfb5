"""Expectations of an estimate by enumeration: every batch that a small MDP can give, with its probability.

The estimators are looked up in ``sb3_pg.estimators`` at the time of the call, so that ``test_mutations.py`` can put
a broken one in place of each.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import torch as th

from sb3_pg import estimators as est
from tests.helpers.tabular import TabularMDP, random_mdp


@dataclass(frozen=True)
class Batch:
    """A flat batch of complete episodes, as the estimators want it.

    :param behaviour_log_prob: ``(n_rows,)`` under the policy that sampled the batch, a constant.
    :param log_prob: ``(n_rows,)`` under the policy whose gradient is estimated.
    :param scores: ``(n_rows, S * A)`` grad log pi(a|s) of each row, in closed form.
    """

    episodes: est.EpisodeIndex
    states: th.Tensor
    actions: th.Tensor
    rewards: th.Tensor
    behaviour_log_prob: th.Tensor
    log_prob: th.Tensor
    scores: th.Tensor

    def at(self, table: th.Tensor) -> th.Tensor:
        """The entry of a ``(horizon, S)`` table for each row's step and state."""
        return table[self.episodes.step, self.states]

    def score_sums(self, weights: th.Tensor | float = 1.0) -> th.Tensor:
        """sum_t weights[i,t] s[i,t] of each episode i, ``(n_episodes, S * A)``.

        :param weights: ``(n_rows,)`` or a number
        """
        zeros = self.scores.new_zeros(self.episodes.n_episodes, self.scores.shape[1])
        weighted = self.scores * th.as_tensor(weights, dtype=self.scores.dtype).expand(self.episodes.n_rows)[:, None]
        return zeros.index_add(0, self.episodes.episode, weighted)


Weights = Callable[[Batch], th.Tensor]


def batch_baseline(name: str, returns: th.Tensor, episodes: est.EpisodeIndex) -> th.Tensor:
    """The baseline of this name on a batch that nobody else has a part of."""
    function: Callable[..., th.Tensor] = est.BATCH_BASELINES[name]
    return function(returns, episodes)


class Enumeration:
    """All batches that the policy ``behaviour`` can sample, as ``theta`` (the same policy if None) sees them."""

    def __init__(self, mdp: TabularMDP, behaviour: th.Tensor, theta: th.Tensor | None = None) -> None:
        behaviour = behaviour.detach()
        self.mdp = mdp
        self.theta = (behaviour if theta is None else theta).detach().clone().requires_grad_()
        self.trajectories = mdp.trajectories()
        self.probability = th.stack([mdp.probability(one, behaviour) for one in self.trajectories])
        self._log_policy, self._behaviour_log_policy = self.theta.log_softmax(-1), behaviour.log_softmax(-1)
        self._score_table = self._scores(self.theta.detach().softmax(-1))

    @staticmethod
    def _scores(policy: th.Tensor) -> th.Tensor:
        """grad log pi(a|s) of a softmax policy, ``(S, A, S * A)``: 1{s} (1{a} - pi(.|s))."""
        n_states, n_actions = policy.shape
        rows = th.eye(n_actions, dtype=policy.dtype) - policy[:, None, :]
        return th.einsum("st,sab->satb", th.eye(n_states, dtype=policy.dtype), rows).flatten(2)

    def batch(self, chosen: Sequence[int]) -> Batch:
        """The batch made of the trajectories of these numbers."""
        episodes = [self.trajectories[k] for k in chosen]
        states = th.tensor([s for one in episodes for s in one.states])
        actions = th.tensor([a for one in episodes for a in one.actions])
        return Batch(
            episodes=est.EpisodeIndex.from_lengths(th.tensor([len(one) for one in episodes])),
            states=states,
            actions=actions,
            rewards=th.tensor([r for one in episodes for r in one.rewards], dtype=th.float64),
            behaviour_log_prob=self._behaviour_log_policy[states, actions],
            log_prob=self._log_policy[states, actions],
            scores=self._score_table[states, actions],
        )

    def whole(self) -> Batch:
        """Each trajectory once: with weights of ``probability``, the whole distribution."""
        return self.batch(range(len(self.trajectories)))

    def batches(self, n_episodes: int) -> Iterator[tuple[float, Batch]]:
        """Every batch of N independent episodes with its probability, in one order of the many (no estimate depends
        on the order: see ``test_properties.py``)."""
        probability = self.probability.tolist()
        for chosen in combinations_with_replacement(range(len(probability)), n_episodes):
            orders = math.factorial(n_episodes) // math.prod(math.factorial(k) for k in Counter(chosen).values())
            yield orders * math.prod(probability[k] for k in chosen), self.batch(chosen)

    def expected_gradient(
        self,
        weights: Weights,
        n_episodes: int = 1,
        loss_reduction: est.LossReduction = "episode",
        mean_length: float | None = None,
    ) -> th.Tensor:
        """E[grad of the surrogate] over all batches of N episodes, ``(S, A)``."""
        surrogates = []
        for probability, batch in self.batches(n_episodes):
            divisor = est.loss_divisor(batch.episodes, loss_reduction, mean_length)
            surrogates.append(probability * est.score_function_surrogate(batch.log_prob, weights(batch), divisor))
        return self.gradient(th.stack(surrogates).sum())

    def gradient(self, scalar: th.Tensor) -> th.Tensor:
        """Gradient in theta, ``(S, A)``."""
        return th.autograd.grad(scalar, self.theta, retain_graph=True)[0]


def policy_gradient_terms(
    mdp: TabularMDP,
    behaviour: th.Tensor,
    gamma: float,
    theta: th.Tensor | None = None,
    continued_by: th.Tensor | None = None,
) -> th.Tensor:
    """The step t's share of the policy gradient, ``(horizon, S, A)``, by dynamic programming:
    gamma^t sum_s d_t(s) sum_a grad pi_theta(a|s) Q_t(s,a), with d and Q those of the behaviour policy, or Q that of
    the policy which goes on after a.

    They sum to grad J at theta = behaviour (the policy gradient theorem), and to the gradient of the surrogate
    E_{s ~ d_old} E_{a ~ pi_theta}[Q_old] elsewhere.
    """
    theta = (behaviour if theta is None else theta).detach().clone().requires_grad_()
    continued_by = behaviour if continued_by is None else continued_by
    occupancy, values = mdp.occupancy(behaviour.detach()), mdp.action_values(continued_by.detach(), gamma)
    terms = []
    for t in range(mdp.horizon):
        share = gamma**t * (occupancy[t][:, None] * theta.softmax(-1) * values[t]).sum()
        terms.append(th.autograd.grad(share, theta)[0])
    return th.stack(terms)


def assert_exact(estimate: th.Tensor, exact: th.Tensor, tolerance: float = 1e-9) -> None:
    """Equal to an absolute 1e-9, in double precision."""
    assert estimate.dtype == exact.dtype == th.float64
    th.testing.assert_close(estimate, exact, rtol=0, atol=tolerance)


def relative_error(estimate: th.Tensor, exact: th.Tensor) -> float:
    """|estimate - exact| / |exact|"""
    return float((estimate - exact).norm() / exact.norm())


def direction_error(estimate: th.Tensor, exact: th.Tensor) -> float:
    """Sine of the angle between the two: 0 where they are proportional."""
    a, b = estimate.flatten() / estimate.norm(), exact.flatten() / exact.norm()
    return float((a - (a @ b) * b).norm())


# 258 trajectories of 1 to 3 steps, for batches of one episode; 42 for pairs; 10, of 1 or 2 steps, for larger batches.
ONE = random_mdp(0)
PAIRS = random_mdp(2, n_states=2, n_starts=1)
SMALL = random_mdp(2, n_states=2, n_starts=1, horizon=2)


def logits(mdp: TabularMDP) -> th.Tensor:
    """The policy that samples."""
    return mdp.random_logits(12)


def other_logits(mdp: TabularMDP) -> th.Tensor:
    """A policy some updates away from it."""
    return logits(mdp) + 0.5 * mdp.random_logits(13)


def weights(returns: str, gamma: float, baseline: str = "none", discount_gradient: bool = False) -> Weights:
    """What the algorithms compute: (gamma^t) (G - b)."""
    return_of = {"total": est.total_return, "reward_to_go": est.reward_to_go}[returns]

    def of(batch: Batch) -> th.Tensor:
        values = return_of(batch.rewards, batch.episodes, gamma)
        if baseline == "optimal":
            with_returns, alone = batch.score_sums(values), batch.score_sums()
            values = values - est.optimal_constant((with_returns * alone).sum(-1), alone.square().sum(-1))
        elif baseline != "none":
            values = values - batch_baseline(baseline, values, batch.episodes)
        return values * est.discount_factors(batch.episodes, gamma, values.dtype) if discount_gradient else values

    return of


def joint_log_prob(per_dimension: th.Tensor) -> th.Tensor:
    """log pi(a|s) of independent action dimensions: their sum, once."""
    return per_dimension.sum(dim=-1)
