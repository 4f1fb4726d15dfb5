"""Every on-policy model: whole episodes of a frozen policy, gradients by layer, after an optimizer; nothing moves."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import TRPO, MaskablePPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_pg import REINFORCE, OffPolicyISPG, VanillaPG
from sb3_pg.data.batch import EpisodeBatch
from sb3_pg.update.natural_gradient import FisherMatrix
from sb3_pg.variance import Measurement, Settings, measure_gradients
from sb3_pg.variance.instruments.credits import own_estimator
from sb3_pg.variance.instruments.gradients import (
    acting_parameters,
    natural_gradients,
    optimizer_steps,
    weighted_scores,
    working_copy,
)
from sb3_pg.variance.instruments.sampling import Player
from tests.helpers.environments import OBSERVATIONS, SPACES, RandomEnv, diary
from tests.helpers.models import differences

TINY: dict[str, Any] = {"net_arch": [4]}


def random_envs(
    actions: str = "Box", policy: str = "MlpPolicy", n_envs: int = 2, kind: type[RandomEnv] = RandomEnv
) -> DummyVecEnv:
    space = SPACES[actions][0]
    return DummyVecEnv([lambda: kind(space, OBSERVATIONS[policy], horizon=6, end_probability=0.2)] * n_envs)


class MaskedRandomEnv(RandomEnv):
    """With one action that is not allowed at every other step."""

    def action_masks(self) -> np.ndarray:
        return np.array([self._t % 2 == 0, True, True, True])


def make(algorithm: Any, env: Any, policy: str = "MlpPolicy", **arguments: Any) -> Any:
    return algorithm(policy, env, policy_kwargs=dict(TINY), seed=0, device="cpu", **arguments)


def small(**asked: Any) -> Settings:
    given = {
        "batches": 4,
        "reference_batches": 4,
        "episodes": 2,
        "critic_batches": 1,
        "drifts": (0.01,),
        "landscape": (0.0, 1.0),
        "landscape_batches": 2,
        "iterations": 3,
        **asked,
    }
    return Settings(**given)


CASES: dict[str, tuple[Any, Callable[[], Any], str, dict[str, Any]]] = {
    "PPO, Box": (PPO, random_envs, "MlpPolicy", {"n_steps": 16, "batch_size": 16}),
    "A2C, Discrete": (A2C, lambda: random_envs("Discrete"), "MlpPolicy", {}),
    "TRPO, MultiDiscrete": (TRPO, lambda: random_envs("MultiDiscrete"), "MlpPolicy", {"n_steps": 16, "batch_size": 16}),
    "PPO, gSDE": (
        PPO,
        random_envs,
        "MlpPolicy",
        {"use_sde": True, "sde_sample_freq": 3, "n_steps": 16, "batch_size": 16},
    ),
    "A2C, dictionary": (A2C, lambda: random_envs("Box clipped", "MultiInputPolicy"), "MultiInputPolicy", {}),
    "REINFORCE, no critic": (REINFORCE, random_envs, "MlpPolicy", {}),
    "VanillaPG": (VanillaPG, lambda: random_envs("MultiBinary"), "MlpPolicy", {}),
    "OffPolicyISPG": (OffPolicyISPG, random_envs, "MlpPolicy", {}),
    "MaskablePPO": (
        MaskablePPO,
        lambda: random_envs("Discrete", kind=MaskedRandomEnv),
        "MlpPolicy",
        {"n_steps": 16, "batch_size": 16},
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_model_is_measured_and_stays_as_it_is(case: tuple[Any, Callable[[], Any], str, dict[str, Any]]) -> None:
    algorithm, env, policy, arguments = case
    model = make(algorithm, env(), policy, **arguments)
    model.learn(64)
    before, drawn = copy.deepcopy(model.get_parameters()), (th.get_rng_state(), pickle.dumps(np.random.get_state()))
    measurement = measure_gradients(model, None, small())
    assert not differences(before, model.get_parameters())
    assert th.equal(drawn[0], th.get_rng_state()) and drawn[1] == pickle.dumps(np.random.get_state())
    assert own_estimator(model).name in [one.name for one in measurement.estimators]  # type: ignore[union-attr]
    values = [one.whole.variance.value for one in measurement.estimators]
    assert np.isfinite(values).all() and min(values) > 0
    assert all(one.natural is not None and one.optimizer is not None for one in measurement.estimators)
    assert len(measurement.drifts) == 1 and measurement.landscape is not None
    layers = measurement.estimators[0].layers
    assert ("log_std" in layers) == hasattr(model.policy, "log_std")
    assert not any("value_net" in name or "vf" in name for name in layers)
    parts = sum(one.variance.value for one in layers.values())
    assert parts == pytest.approx(measurement.estimators[0].whole.variance.value, rel=1e-5)
    model.learn(32)  # which begins with a reset


def test_without_a_gradient_there_is_no_direction_and_the_rest_is_there() -> None:
    """Rewards that depend on the step alone, so that rewards to go less the mean of the others' are 0 throughout."""
    model = make(PPO, diary(2), n_steps=16, batch_size=16)
    measurement = measure_gradients(model, None, small())
    assert not measurement.drifts and measurement.landscape is None and measurement.estimators
    (drift,), (landscape,) = ([r for r in measurement.remarks if r.startswith(f"no {w}")] for w in ("drift", "landsc"))
    assert "of KL 0.01: the direction of the drift is 0" in drift and "write direction='random'" in landscape


def test_what_a_model_learns_by_is_among_the_estimators() -> None:
    names = {
        PPO: "gae 0.95, model critic, bootstrapped, normalized, per step",
        A2C: "gae 1, model critic, bootstrapped, per step",
    }
    for algorithm, name in names.items():
        estimator = own_estimator(make(algorithm, random_envs()))
        assert estimator is not None and estimator.name == name
    ours = own_estimator(make(REINFORCE, random_envs(), baseline="leave_one_out", returns="total"))
    assert ours is not None and (ours.returns, ours.baseline, ours.critic) == ("total", "leave_one_out", "model")
    assert own_estimator(make(REINFORCE, random_envs(), baseline=lambda batch: 0.0)) is None


def batch_of(model: Any, episodes: int = 4) -> EpisodeBatch:
    return Player(model.policy, model.get_env()).play(1, episodes, seed=3)[0]


def test_gradients_are_the_literal_sums() -> None:
    """One backward pass a row, for two weightings of Gaussian actions, ``log_std`` among the parameters."""
    model = make(PPO, random_envs())
    batch, policy = batch_of(model), working_copy(model.policy)
    parameters = acting_parameters(policy, batch)
    assert next(iter(parameters)) == "log_std" and not any("value" in name for name in parameters)
    weights = th.randn(2, batch.n_rows, generator=th.Generator().manual_seed(0))
    literal = th.zeros(2, sum(one.numel() for one in parameters.values()), dtype=th.float64)
    for row in range(batch.n_rows):
        steps = batch.at(slice(row, row + 1))
        log_prob = policy.evaluate_actions(steps.observations, steps.actions)[1]
        score = th.cat([one.flatten() for one in th.autograd.grad(log_prob.sum(), list(parameters.values()))])
        literal += weights[:, row, None].double() * score.double()
    th.testing.assert_close(weighted_scores(policy, parameters, batch, weights), literal, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("algorithm", [PPO, A2C], ids=["Adam", "RMSprop"])
@pytest.mark.parametrize("fresh", [False, True])
def test_the_optimizers_step_is_the_one_that_it_would_take(algorithm: Any, fresh: bool) -> None:
    """Of the real optimizer, in its own state, on a copy of the model in which the gradient is set and a step made."""
    arguments: dict[str, Any] = {"n_steps": 16, "batch_size": 16} if algorithm is PPO else {}
    model = make(algorithm, random_envs(), **arguments)
    model.learn(64)
    parameters = acting_parameters(model.policy, batch_of(model))
    before = [one.detach().clone() for one in parameters.values()]
    lengths = [one.numel() for one in before]
    gradients = th.randn(2, sum(lengths), generator=th.Generator().manual_seed(1), dtype=th.float64)
    state = copy.deepcopy(model.policy.optimizer.state_dict())
    steps = optimizer_steps(model.policy.optimizer, parameters, gradients, fresh)
    assert not differences(state, model.policy.optimizer.state_dict())
    if fresh:
        model.policy.optimizer.state.clear()
    model.policy.optimizer.zero_grad()
    for one, part in zip(parameters.values(), gradients[1].split(lengths), strict=True):
        one.grad = -part.view_as(one).float()
    model.policy.optimizer.step()
    moved = th.cat([(one - was).flatten() for one, was in zip(parameters.values(), before, strict=True)])
    th.testing.assert_close(steps[1].float(), moved.detach(), rtol=1e-2, atol=2e-7)


def test_natural_gradients_solve_the_fisher_matrix() -> None:
    """(F + damping I) x = g, with F written out column by column."""
    model = make(PPO, random_envs())
    batch = batch_of(model)
    fisher = FisherMatrix(model.policy, batch, damping=0.1)
    n = sum(one.numel() for one in fisher.parameters)
    matrix = th.stack([fisher.product(unit) for unit in th.eye(n)]).double()
    gradients = th.randn(2, n, generator=th.Generator().manual_seed(1), dtype=th.float64)
    found = natural_gradients(model.policy, batch, gradients, 0.1, 5 * n, None)
    th.testing.assert_close(found @ matrix, gradients, rtol=0, atol=1e-2)
    exact = th.linalg.solve(matrix, gradients.T).T
    assert bool((th.cosine_similarity(found, exact) > 0.9999).all())


def test_every_environment_plays_its_share_of_whole_episodes() -> None:
    """Episodes of 2 and of 5 steps side by side, in two batches of four: neither kind is more than half."""
    model = make(PPO, diary(2))
    model.env.envs[0].unwrapped.lengths, model.env.envs[1].unwrapped.lengths = (2,), (5,)
    first, second = Player(model.policy, model.get_env()).play(2, 4, seed=0)
    for number, batch in enumerate((first, second)):
        assert batch.episodes.lengths.tolist() == [2, 2, 5, 5] and batch.env.tolist() == [0, 0, 1, 1]
        assert isinstance(batch.observations, th.Tensor)
        where = batch.observations.int().tolist()
        played = [[env, 2 * number + k, t] for env, length in ((0, 2), (1, 5)) for k in (0, 1) for t in range(length)]
        # The diary counts the resets of its whole life
        assert [[env, k - where[0][1] + 2 * number, t] for env, k, t in where] == played
        assert bool(batch.terminated.all()) and not bool(batch.truncated.any())


def test_the_end_of_an_episode_by_the_clock_keeps_what_was_seen_there() -> None:
    model = make(PPO, diary(1, lengths=(3,), ending="truncated"))
    (batch,) = Player(model.policy, model.get_env()).play(1, 2, seed=0)
    assert bool(batch.truncated.all()) and batch.is_followed is not None and bool(batch.is_followed.all())
    assert isinstance(batch.last_observations, th.Tensor)
    assert batch.last_observations[:, 2].tolist() == [3, 3]


def test_the_same_seed_plays_the_same_and_another_does_not() -> None:
    model = make(PPO, random_envs())
    player = Player(model.policy, model.get_env())
    one, other, third = (player.play(1, 4, seed)[0] for seed in (5, 5, 6))
    assert th.equal(one.actions, other.actions) and th.equal(one.rewards, other.rewards)
    assert not (one.n_rows == third.n_rows and th.equal(one.actions, third.actions))
    log_prob = model.policy.evaluate_actions(one.observations, one.actions)[1]
    th.testing.assert_close(one.behaviour_log_prob, log_prob.detach(), rtol=1e-5, atol=1e-5)


def test_normalisation_is_frozen_and_rewards_are_raw() -> None:
    """The statistics do not move, observations are as the policy knows them, rewards as the environment gave them."""
    env = VecNormalize(random_envs())
    model = make(PPO, env, n_steps=16, batch_size=16)
    model.learn(64)
    before: list[Any] = copy.deepcopy([env.obs_rms, env.ret_rms])
    (batch,) = Player(model.policy, model.get_env()).play(1, 4, seed=0)
    assert isinstance(batch.observations, th.Tensor)
    raw = model.get_env().unnormalize_obs(batch.observations.numpy())
    assert np.allclose(raw, np.clip(raw, -2.0001, 2.0001)) and not np.allclose(raw, batch.observations.numpy())
    plain = Player(model.policy, env)
    assert th.equal(plain.play(1, 4, seed=0)[0].rewards, batch.rewards)
    measurement: Measurement = measure_gradients(model, None, small(drifts=(), landscape=(), transforms=()))
    assert measurement.facts["normalized"] is True and measurement.facts["optimizer_state"] == "the model's own"
    for was, now in zip(before, [env.obs_rms, env.ret_rms], strict=True):
        assert np.array_equal(was.mean, now.mean) and was.count == now.count  # type: ignore[attr-defined]
    assert env.training and env.norm_reward
    # A second environment is normalised as the model's own
    elsewhere = measure_gradients(model, random_envs(), small(drifts=(), landscape=(), transforms=()))
    assert elsewhere.mean_return == measurement.mean_return


def test_actions_are_clipped_for_the_environment_alone() -> None:
    model = make(PPO, random_envs("Box clipped"))
    (batch,) = Player(model.policy, model.get_env()).play(1, 8, seed=0)
    assert isinstance(model.action_space, spaces.Box)
    assert bool((batch.actions.abs() > 0.5).any())  # which RandomEnv's rewards would tell, but not refuse
