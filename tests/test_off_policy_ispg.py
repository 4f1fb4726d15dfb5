"""OffPolicyISPG: PPO, VanillaPG and REINFORCE where it is configured as them; its trust regions; its memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

from sb3_pg import REINFORCE, OffPolicyISPG, VanillaPG

pytestmark = pytest.mark.filterwarnings("error::UserWarning", "ignore:You have specified a mini-batch size")

#: PPO's own settings, where OffPolicyISPG has others.
AS_PPO: dict[str, Any] = {
    "learning_rate": 3e-4,
    "batch_size": 64,
    "n_epochs": 10,
    "clip_range": 0.2,
    "gae_lambda": 0.95,
    "target_kl": None,
    "value_learning_rate": None,
    "n_value_updates": 1,
}


def parameters_after(algorithm: Any, env_id: str, n_updates: int = 10, **settings: Any) -> dict[str, th.Tensor]:
    """Every parameter after some rollouts with three environments."""
    env = make_vec_env(env_id, 3, seed=0)
    model = algorithm("MlpPolicy", env, seed=0, device="cpu", **settings).learn(n_updates * 3 * settings["n_steps"])
    return {name: value.detach().clone() for name, value in model.policy.named_parameters()}


def assert_same(ours: dict[str, th.Tensor], theirs: dict[str, th.Tensor], tolerance: float = 1e-6) -> None:
    """Parameter by parameter, absolute or relative."""
    assert ours.keys() == theirs.keys()
    for name in ours:
        th.testing.assert_close(
            ours[name], theirs[name], rtol=tolerance, atol=tolerance, msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
@pytest.mark.parametrize(
    "settings",
    [
        {"n_steps": 64, "n_epochs": 3},
        {"n_steps": 210, "batch_size": 100, "n_epochs": 3, "gae_lambda": 0.8, "clip_range": 0.1},
        {"n_steps": 64, "normalize_advantage": False, "ent_coef": 0.01, "clip_range_vf": 0.2, "vf_coef": 0.7},
    ],
    ids=str,
)
def test_configured_as_ppo_it_is_ppo(env_id: str, settings: dict[str, Any]) -> None:
    """Ten rollouts from the same seed, 90 to 300 gradient steps, parameter by parameter, to 1e-6: the rounding of the
    advantages differs, hence not bit for bit.

    Rollouts of 210 steps go over time limits, and their last minibatch is smaller than the others. (With 300 steps of
    PPO's own settings on Pendulum that rounding now and then moves a ratio over the clip's edge: 2e-5 on some seeds.)
    """
    ours = parameters_after(OffPolicyISPG, env_id, **AS_PPO | settings)
    assert_same(ours, parameters_after(PPO, env_id, **settings))


#: One gradient step an iteration, without a trust region.
ONE_STEP: dict[str, Any] = {"n_epochs": 1, "target_kl": None, "normalize_advantage": False}


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"value_learning_rate": None, "n_value_updates": 1, "ent_coef": 0.01},
        {"normalize_advantage": True, "loss_reduction": "mean_length", "discount_gradient": True},
        {"returns": "reward_to_go", "incomplete_episodes": "truncate", "micro_batch_size": 50},
    ],
    ids=str,
)
def test_with_one_step_it_is_vanilla_pg(env_id: str, settings: dict[str, Any]) -> None:
    """Ten updates, to 1e-6: the ratios of a fresh batch are 1 up to the rounding of a second forward pass."""
    shared = {"n_steps": 70, "gae_lambda": 0.9, "learning_rate": 1e-3} | settings
    ours = parameters_after(OffPolicyISPG, env_id, **ONE_STEP | shared)
    assert_same(ours, parameters_after(VanillaPG, env_id, **shared))


@pytest.mark.parametrize("importance", ["timestep", "trajectory", "per_decision", "none"])
def test_with_one_step_it_is_reinforce(importance: str) -> None:
    """Ten updates on whole episodes, each from one policy (to 1e-6), with every level: their weights are all 1."""
    shared: dict[str, Any] = {"n_steps": 200, "n_episodes": 9, "learning_rate": 1e-3, "baseline": "leave_one_out"}
    shared |= {"incomplete_episodes": "carry", "bootstrap_truncated": False, "returns": "reward_to_go"}
    shared |= {"n_value_updates": 1, "value_learning_rate": None}
    ours = parameters_after(OffPolicyISPG, "CartPole-v1", **ONE_STEP | shared | {"importance": importance})
    assert_same(ours, parameters_after(REINFORCE, "CartPole-v1", **shared))


def test_carried_steps_as_reinforce_weights_them() -> None:
    """With ``carry`` REINFORCE truncates the ratios of carried steps at 10; so does ``max_weight=10``."""
    shared: dict[str, Any] = {"n_steps": 40, "learning_rate": 0.05, "baseline": "none", "n_value_updates": 1}
    shared |= {"incomplete_episodes": "carry", "bootstrap_truncated": False, "returns": "reward_to_go"}
    shared |= {"value_learning_rate": None}
    ours = parameters_after(OffPolicyISPG, "CartPole-v1", **ONE_STEP | shared | {"max_weight": 10.0})
    assert_same(ours, parameters_after(REINFORCE, "CartPole-v1", **shared))


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_a_huge_clip_range_is_none(env_id: str) -> None:
    """PPO's objective without its clip is the importance-weighted one: ten updates of six steps, to 1e-6."""
    settings: dict[str, Any] = {"n_steps": 32, "n_epochs": 6, "target_kl": None}
    clipped, plain = (parameters_after(OffPolicyISPG, env_id, **settings, clip_range=clip) for clip in (1e6, None))
    assert_same(clipped, plain)
    tight = parameters_after(OffPolicyISPG, env_id, **settings, clip_range=0.01)
    assert max(float((tight[name] - plain[name]).abs().max()) for name in plain) > 1e-3
