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
        {"n_steps": 64},
        {"n_steps": 210, "batch_size": 100, "n_epochs": 3, "gae_lambda": 0.8, "clip_range": 0.1},
        {"n_steps": 64, "normalize_advantage": False, "ent_coef": 0.01, "clip_range_vf": 0.2, "vf_coef": 0.7},
    ],
    ids=str,
)
def test_configured_as_ppo_it_is_ppo(env_id: str, settings: dict[str, Any]) -> None:
    """Ten rollouts from the same seed, up to 30 gradient steps each, parameter by parameter, to 1e-6.

    Rollouts of 210 steps go over time limits, and their last minibatch is smaller than the others.
    """
    ours = parameters_after(OffPolicyISPG, env_id, **AS_PPO | settings)
    theirs = parameters_after(PPO, env_id, **settings)
    print("MAXDIFF", max((ours[n]-theirs[n]).abs().max() for n in ours))
    assert_same(ours, theirs)
