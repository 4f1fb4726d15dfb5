"""Settings that benchmarks and tests share, chosen on seeds 101 to 110, which no reported result uses."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.utils import LinearSchedule

#: REINFORCE on CartPole-v1 with 8 environments. Undiscounted, the estimate is the gradient of what is scored.
CARTPOLE: dict[str, Any] = {"n_steps": 256, "gamma": 1.0}

#: OffPolicyISPG with the very estimator that REINFORCE has there, and several steps on each batch.
CARTPOLE_SAME_ESTIMATOR: dict[str, Any] = CARTPOLE | {
    "returns": "reward_to_go",
    "baseline": "time_leave_one_out",
    "incomplete_episodes": "carry",
    "bootstrap_truncated": False,
    "n_value_updates": 1,
    "value_learning_rate": None,
    "loss_reduction": "mean_length",
    "max_weight": 10.0,
    "n_epochs": 10,
    "target_kl": 0.02,
}
#: OffPolicyISPG's defaults on batches as large as REINFORCE's, in steps on 256 rows.
CARTPOLE_MINIBATCHES: dict[str, Any] = {
    "n_steps": 256,
    "batch_size": 256,
    "n_epochs": 10,
    "normalize_advantage": True,
    "target_kl": 0.02,
}

#: OffPolicyISPG on Pendulum-v1 with 8 environments: state-dependent exploration, a short horizon, a busy critic.
PENDULUM: dict[str, Any] = {
    "learning_rate": LinearSchedule(2e-3, 0.0, 1.0),
    "n_steps": 32,
    "n_epochs": 10,
    "gamma": 0.9,
    "normalize_advantage": True,
    "target_kl": 0.02,
    "use_sde": True,
    "sde_sample_freq": 4,
    "n_value_updates": 20,
}

#: OffPolicyISPG on LunarLander-v3 with 16 environments.
LUNAR_LANDER: dict[str, Any] = {
    "n_steps": 128,
    "batch_size": 256,
    "n_epochs": 4,
    "gamma": 0.999,
    "gae_lambda": 0.98,
    "normalize_advantage": True,
    "target_kl": 0.02,
    "ent_coef": 0.01,
    "n_value_updates": 20,
}

#: VanillaPG on Pendulum-v1 with 8 environments, along the natural gradient.
PENDULUM_VPG: dict[str, Any] = {
    "learning_rate": 0.3,
    "n_steps": 128,
    "gamma": 0.9,
    "gae_lambda": 0.95,
    "max_grad_norm": None,
    "normalize_advantage": True,
    "natural_gradient": True,
    "n_value_updates": 30,
    "use_sde": True,
    "sde_sample_freq": 4,
}
