"""VanillaPG under TRPO's own names and defaults of arguments, for sb3-contrib's tests of TRPO."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from sb3_pg import VanillaPG


class VanillaPGAsTRPO(VanillaPG):
    """TRPO's learning rate, batch size and number of updates are its critic's; the rest are VanillaPG's own names.

    It has no ``sub_sampling_factor``, since VanillaPG has nothing like it.
    """

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 1e-3,
        n_steps: int = 2048,
        batch_size: int = 128,
        n_critic_updates: int = 10,
        gae_lambda: float = 0.95,
        normalize_advantage: bool = True,
        target_kl: float = 0.01,
        **kwargs: Any,
    ):
        super().__init__(
            policy,
            env,
            n_steps=n_steps,
            gae_lambda=gae_lambda,
            normalize_advantage=normalize_advantage,
            max_grad_norm=None,
            natural_gradient=True,
            target_kl=target_kl,
            value_learning_rate=learning_rate,
            value_batch_size=batch_size,
            n_value_updates=n_critic_updates,
            **kwargs,
        )
