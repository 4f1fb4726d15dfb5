"""Masked policies by exact enumeration, by closed formulas, and beside sb3-contrib's MaskablePPO."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import MaskablePPO
from sb3_contrib.common.envs import InvalidActionEnvDiscrete, InvalidActionEnvMultiBinary, InvalidActionEnvMultiDiscrete
from sb3_contrib.common.maskable.distributions import MaskableCategorical, make_masked_proba_distribution
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.env_util import make_vec_env

from sb3_pg import REINFORCE, MaskableActorPolicy, OffPolicyISPG
from sb3_pg.data.batch import EpisodeBatch
from sb3_pg.data.minibatches import whole_batch
from sb3_pg.estimators import EpisodeIndex, reward_to_go
from sb3_pg.policies import divergence
from sb3_pg.policies.divergence import Divergence, policy_kl
from sb3_pg.policies.evaluation import action_distribution, evaluate_actions
from sb3_pg.policies.passes import all_log_probs
from sb3_pg.update.episode_gradients import episode_gradients
from sb3_pg.update.gradient import Objective, accumulate_gradient
from sb3_pg.update.natural_gradient import FisherMatrix
from tests.helpers.enumeration import assert_exact
from tests.helpers.masks import MASKED_SPACES, joint_log_prob, log_probs_of, masked_diary
from tests.helpers.models import AS_PPO, actions_of, make
from tests.helpers.recording import Batches, double_precision, flat_gradient
from tests.helpers.tabular import TabularMDP, random_mdp

MDP = random_mdp(5, n_states=2, n_actions=3, horizon=3)
#: What is allowed in each state.
ALLOWED = th.tensor([[True, False, True], [False, True, True]])
GAMMA = 0.9

every_space = pytest.mark.parametrize("name", MASKED_SPACES)


def tabular_policy(mdp: TabularMDP) -> tuple[Any, th.Tensor]:
    """A linear policy of the states, and its logits ``(S, A)``."""
    space, actions = spaces.Discrete(mdp.n_states), spaces.Discrete(mdp.n_actions)
    policy: Any = double_precision(MaskableActorPolicy(space, actions, lambda _: 0.0, net_arch=[]))  # type: ignore[arg-type]
    theta = mdp.random_logits(3)
    policy.action_net.weight.data.copy_(theta.T)
    policy.action_net.bias.data.zero_()
    return policy, theta


def every_episode(mdp: TabularMDP, theta: th.Tensor, allowed: th.Tensor) -> tuple[EpisodeBatch, th.Tensor]:
    """Every episode that the masked policy can play, and the probability of each."""
    masked = theta.masked_fill(~allowed, -th.inf)
    pairs = [(one, mdp.probability(one, masked)) for one in mdp.trajectories()]
    pairs = [(one, probability) for one, probability in pairs if probability > 0]
    index = EpisodeIndex.from_lengths(th.tensor([len(one) for one, _ in pairs]))
    states, actions = (th.tensor([x for one, _ in pairs for x in getattr(one, part)]) for part in ("states", "actions"))
    rewards = th.tensor([r for one, _ in pairs for r in one.rewards], dtype=th.float64)
    zeros, flags, nothing = th.zeros_like(rewards), rewards > 1e9, th.zeros(index.n_episodes, dtype=th.float64)
    log_prob = masked.log_softmax(-1)[states, actions]
    ended = nothing == 0
    facts = (index, states, actions, rewards, log_prob, zeros, flags, nothing.long(), ended, ~ended, nothing)
    return EpisodeBatch(*facts, extras={"action_masks": allowed[states]}), th.stack([p for _, p in pairs])


@pytest.mark.parametrize("micro_batch_size", [None, 10])
def test_expected_gradient_is_that_of_the_masked_objective(micro_batch_size: int | None) -> None:
    """The package's gradient over all episodes, each weighted with its probability, is autodiff's of J: to 1e-9."""
    policy, theta = tabular_policy(MDP)
    batch, probability = every_episode(MDP, theta, ALLOWED)
    assert float(probability.sum()) == pytest.approx(1.0)
    weights = reward_to_go(batch.rewards, batch.episodes, GAMMA, batch.last_values)
    weights = weights * GAMMA ** batch.episodes.step.double() * probability[batch.episodes.episode]
    objective = Objective(lambda log_prob, rows: -(log_prob * weights[rows]).sum(), th.ones(()), ent_coef=0.0)
    accumulate_gradient(policy, batch, whole_batch(batch), objective, micro_batch_size)
    theta.requires_grad_()
    masked = theta.masked_fill(~ALLOWED, -th.inf)
    exact = th.autograd.grad(MDP.objective(masked, GAMMA), theta)[0]
    assert_exact(-policy.action_net.weight.grad.T, exact)


def logits_of(policy: Any, observations: Any) -> th.Tensor:
    """``(n_rows, n)`` before any mask."""
    logits: th.Tensor = policy.action_net(policy.mlp_extractor.forward_actor(observations.double()))
    return logits


def masked_policy_and_batch(name: str, cls: Any = MaskableActorCriticPolicy) -> tuple[Any, EpisodeBatch, th.Tensor]:
    """A random policy in float64, and rows with a random mask each; its unmasked logits there."""
    space, sizes = MASKED_SPACES[name]
    th.manual_seed(0)
    policy: Any = cls(spaces.Box(-1, 1, (4,)), space, lambda _: 0.0, net_arch=[5], ortho_init=False)
    policy = double_precision(policy)
    n_rows = 6
    observations = th.rand(n_rows, 4) * 2 - 1
    masks = th.rand(n_rows, sum(sizes)) < 0.5
    masks[:, np.cumsum([0, *sizes[:-1]])] = True
    zeros, flag = th.zeros(n_rows, dtype=th.float64), th.zeros(1, dtype=th.bool)
    with th.no_grad():
        actions = policy(observations, action_masks=masks)[0]
        logits = logits_of(policy, observations)
    index = EpisodeIndex.from_lengths(th.tensor([n_rows]))
    facts = (index, observations, actions, zeros, zeros, zeros, zeros > 0, flag.long(), flag, flag, zeros)
    return policy, EpisodeBatch(*facts, extras={"action_masks": masks}), logits


@every_space
def test_log_probs_and_entropies_are_those_of_the_allowed_actions(name: str) -> None:
    """By the textbook's formulas with -inf; the policy's own evaluation, ours in pieces, and the distribution."""
    policy, batch, logits = masked_policy_and_batch(name)
    parts = log_probs_of(logits, batch.extras["action_masks"], MASKED_SPACES[name][1])
    _, log_prob, entropy = evaluate_actions(policy, batch.at(slice(None)))
    th.testing.assert_close(log_prob.detach(), joint_log_prob(parts, batch.actions), rtol=1e-12, atol=1e-12)
    expected = -sum(th.nan_to_num(one.exp() * one).sum(-1) for one in parts)
    assert entropy is not None and isinstance(expected, th.Tensor)
    th.testing.assert_close(entropy.detach(), expected, rtol=1e-12, atol=1e-12)
    th.testing.assert_close(all_log_probs(policy, batch, whole_batch(batch), 4), log_prob.detach())
    drawn = {tuple(np.ravel(action_distribution(policy, batch.at(slice(0, 1))).sample())) for _ in range(300)}
    possible = [tuple(np.nonzero(np.isfinite(one[0].numpy()))[0]) for one in parts]
    assert drawn == set(np.ndindex(*[10] * len(parts))) & {
        action
        for action in np.ndindex(*[10] * len(parts))
        if all(a in p for a, p in zip(action, possible, strict=True))
    }


@pytest.mark.parametrize("n", [2, 3, 50])
def test_a_masked_action_counts_exactly_nothing(n: int) -> None:
    """Probability, share of the entropy and share of the KL are 0, not nearly; in single precision too."""
    masks = th.zeros(1, n, dtype=th.bool)
    masks[0, 0] = True
    one, other = (make_masked_proba_distribution(spaces.Discrete(n)).proba_distribution(th.randn(1, n)) for _ in "ab")
    for distribution in (one, other):
        distribution.apply_masking(masks)
    assert one.log_prob(th.tensor([1])).exp().item() == 0.0
    assert one.entropy().item() == 0.0  # type: ignore[union-attr]
    assert policy_kl(one, other).item() == 0.0


def test_infinite_logits_are_no_numbers_in_the_kl() -> None:
    """A mask of somebody's own, of -inf: its KL and the gradient of it are finite."""
    logits = th.tensor([[0.3, -0.2, -th.inf]])
    one, other = (make_masked_proba_distribution(spaces.Discrete(3)) for _ in "ab")
    variable = th.tensor([[0.1, 0.5, -th.inf]], requires_grad=True)
    one.distribution, other.distribution = MaskableCategorical(logits=logits), MaskableCategorical(logits=variable)
    kl = policy_kl(one, other).sum()
    p, q = logits.log_softmax(-1)[0, :2], variable.log_softmax(-1)[0, :2]
    th.testing.assert_close(kl, (p.exp() * (p - q)).sum())
    assert bool(th.autograd.grad(kl, variable)[0].isfinite().all())


@every_space
@pytest.mark.parametrize("keeps", [True, False], ids=["numbers kept", "policy kept"])
def test_divergence_uses_the_masks_of_the_rows(name: str, keeps: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean KL, in pieces, of the allowed actions; from the old numbers, and from a frozen copy of the policy."""
    policy, batch, before = masked_policy_and_batch(name)
    if not keeps:
        monkeypatch.setattr(divergence, "_joined", lambda parts: None)
    measured = Divergence(policy, batch, 4)
    with th.no_grad():
        policy.action_net.weight += 0.5 * th.randn_like(policy.action_net.weight)
        after = logits_of(policy, batch.observations)
    sizes, masks = MASKED_SPACES[name][1], batch.extras["action_masks"]
    old, new = log_probs_of(before, masks, sizes), log_probs_of(after, masks, sizes)
    kl = sum(th.nan_to_num(p.exp() * (p - q)).sum(-1) for p, q in zip(old, new, strict=True))
    assert isinstance(kl, th.Tensor)
    assert measured.mean() == pytest.approx(kl.mean().item(), rel=1e-9)
    summed = measured.summed(slice(2, 5))
    th.testing.assert_close(summed.detach(), kl[2:5].sum(), rtol=1e-9, atol=1e-12)
    summed.backward()
    assert bool(policy.action_net.weight.grad.isfinite().all())


@every_space
def test_fisher_matrix_is_that_of_the_masked_policy(name: str) -> None:
    """F = (1/n) sum_s sum_a pi(a|s) s(a|s) s(a|s)^T over the allowed actions."""
    space, sizes = MASKED_SPACES[name]
    policy, batch, _ = masked_policy_and_batch(name, MaskableActorPolicy)
    fisher = FisherMatrix(policy, batch, micro_batch_size=4)
    n = sum(parameter.numel() for parameter in fisher.parameters)
    product = th.stack([fisher.product(unit) for unit in th.eye(n, dtype=th.float64)], dim=1)
    expected = th.zeros_like(product)
    for row in range(batch.n_rows):
        masks = batch.extras["action_masks"][row : row + 1]
        logits = logits_of(policy, batch.at(slice(row, row + 1)).observations)
        for action in actions_of(space):
            log_prob = joint_log_prob(log_probs_of(logits, masks, sizes), th.tensor([action])).sum()
            if log_prob.isfinite():
                score = th.cat([g.flatten() for g in th.autograd.grad(log_prob, fisher.parameters, retain_graph=True)])
                expected += log_prob.exp().detach() * th.outer(score, score) / batch.n_rows
    th.testing.assert_close(product, expected, rtol=1e-6, atol=1e-9)


@every_space
def test_gradients_of_single_episodes_are_masked(name: str) -> None:
    """What the optimal baseline and the signal-to-noise ratio are made of."""
    policy, batch, _ = masked_policy_and_batch(name, MaskableActorPolicy)
    index = EpisodeIndex.from_lengths(th.tensor([2, 4]))
    batch, weights = dataclasses.replace(batch, episodes=index), th.randn(6, dtype=th.float64)
    actor = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    for rows, (gradient,) in zip(batch.each_episode(), episode_gradients(policy, batch, weights), strict=True):
        steps = batch.at(rows)
        parts = log_probs_of(
            logits_of(policy, steps.observations), steps.extras["action_masks"], MASKED_SPACES[name][1]
        )
        score = th.autograd.grad((weights[rows] * joint_log_prob(parts, steps.actions)).sum(), actor)
        th.testing.assert_close(gradient, th.cat([part.flatten() for part in score]), rtol=1e-6, atol=1e-9)


class Gradients(Batches):
    """The batch and the gradient of every update, and the policy's parameters before it."""

    def __init__(self) -> None:
        super().__init__()
        self.gradients: list[th.Tensor] = []
        self.before: list[dict[str, th.Tensor]] = []

    def _on_training_start(self) -> None:
        def note(*_: Any) -> None:
            self.gradients.append(flat_gradient(self.model.policy))
            self.before.append({name: value.clone() for name, value in self.model.policy.state_dict().items()})

        self.model.policy.optimizer.register_step_pre_hook(note)


@every_space
def test_gradient_of_learn_is_the_literal_sum(name: str) -> None:
    """REINFORCE's, where steps of earlier policies are carried over: each row under its own mask, to 1e-5."""
    sizes = MASKED_SPACES[name][1]
    kwargs: dict[str, Any] = {"learning_rate": 0.1, "baseline": "none", "loss_reduction": "episode"}
    kwargs |= {"policy_kwargs": {"net_arch": [], "optimizer_class": th.optim.SGD}, "max_grad_norm": None}
    model = make(REINFORCE, masked_diary(lengths=[5, 8], space=name), n_steps=7, gamma=0.9, **kwargs)
    seen = Gradients()
    model.learn(5 * 21, callback=seen)
    assert any(bool(batch.carried.any()) for batch in seen.updates)
    for batch, gradient, before in zip(seen.updates, seen.gradients, seen.before, strict=True):
        assert isinstance(batch.observations, th.Tensor)
        weight, bias = (before[f"action_net.{part}"].double().requires_grad_() for part in ("weight", "bias"))
        logits = batch.observations.double() @ weight.T + bias
        log_prob = joint_log_prob(log_probs_of(logits, batch.extras["action_masks"], sizes), batch.actions)
        ratio = (log_prob.detach() - batch.behaviour_log_prob.double()).exp().clamp(max=10.0)
        assert bool(((ratio - 1).abs() < 1e-5)[~batch.carried].all())
        returns = reward_to_go(batch.rewards.double(), batch.episodes, 0.9, batch.last_values.double())
        loss = -(ratio * returns * log_prob).sum() / batch.episodes.n_episodes
        expected = th.cat([part.flatten() for part in th.autograd.grad(loss, [weight, bias])])
        assert (gradient.double() - expected).norm() <= 1e-5 * expected.norm()


INVALID: dict[str, tuple[Any, dict[str, Any]]] = {
    "Discrete": (InvalidActionEnvDiscrete, {"dim": 20, "n_invalid_actions": 12}),
    "MultiDiscrete": (InvalidActionEnvMultiDiscrete, {"dims": [2, 3], "n_invalid_actions": 2}),
    "MultiBinary": (InvalidActionEnvMultiBinary, {"dims": 3, "n_invalid_actions": 2}),
}


@every_space
@pytest.mark.parametrize(
    "settings",
    [
        {"n_steps": 64, "n_epochs": 3},
        {"n_steps": 50, "batch_size": 40, "n_epochs": 2, "ent_coef": 0.01, "clip_range_vf": 0.2, "clip_range": 0.1},
    ],
    ids=str,
)
def test_configured_as_maskable_ppo_it_is_maskable_ppo(name: str, settings: dict[str, Any]) -> None:
    """Three rollouts over time limits from the same seed, parameter by parameter, to 1e-6."""
    cls, env_kwargs = INVALID[name]

    def parameters_after(algorithm: Any, **kwargs: Any) -> dict[str, th.Tensor]:
        env = make_vec_env(cls, 3, seed=0, env_kwargs={"ep_length": 30} | env_kwargs)
        model = algorithm("MlpPolicy", env, seed=0, device="cpu", **kwargs).learn(3 * 3 * settings["n_steps"])
        return dict(model.policy.named_parameters())

    ours, theirs = parameters_after(OffPolicyISPG, **AS_PPO | settings), parameters_after(MaskablePPO, **settings)
    assert ours.keys() == theirs.keys()
    for key in ours:
        message = partial("{}: {}".format, key)
        th.testing.assert_close(ours[key], theirs[key], rtol=1e-6, atol=1e-6, msg=message)
