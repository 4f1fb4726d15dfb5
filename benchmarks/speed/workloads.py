"""What is timed: each contender of a workload is a function that returns environment steps (or rows) per second."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.env_util import make_vec_env as sb3_make_vec_env
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_pg import REINFORCE, OffPolicyISPG, VanillaPG, make_vec_env
from sb3_pg.common.fast_actor import FastActor

ENV_ID, N_STEPS = "CartPole-v1", 128
Rate = Callable[[], float]


@dataclass(frozen=True)
class Workload:
    """Contenders that are timed in turn; the first is what the others are measured by.

    :param aim: of the last contender's ratio to the first
    """

    name: str
    contenders: dict[str, Rate]
    aim: str = ""


def dummy(n_envs: int) -> VecEnv:
    """SB3's own vector environment."""
    return sb3_make_vec_env(ENV_ID, n_envs, seed=0)


def batched(n_envs: int) -> VecEnv:
    """Gymnasium's CartPole that is computed all at once."""
    return make_vec_env(ENV_ID, n_envs, seed=0, backend="gymnasium")


def learning(algorithm: type[OnPolicyAlgorithm], env: VecEnv, n_rollouts: int, **settings: Any) -> Rate:
    """Environment steps per second of ``learn``, with the callbacks that it has by default."""
    model = algorithm("MlpPolicy", env, n_steps=N_STEPS, seed=0, device="cpu", **settings)
    n_steps = n_rollouts * N_STEPS * env.num_envs
    model.learn(N_STEPS * env.num_envs)

    def rate() -> float:
        started = time.perf_counter()
        model.learn(n_steps)
        return n_steps / (time.perf_counter() - started)

    return rate


def stepping(env: VecEnv, n_vector_steps: int) -> Rate:
    """Environment steps per second of ``env.step`` alone, with actions drawn beforehand."""
    env.reset()
    actions = np.random.default_rng(0).integers(0, 2, (n_vector_steps, env.num_envs))

    def rate() -> float:
        started = time.perf_counter()
        for action in actions:
            env.step(action)
        return n_vector_steps * env.num_envs / (time.perf_counter() - started)

    return rate


def limit(env: VecEnv, n_vector_steps: int) -> Rate:
    """What REINFORCE could reach: stepping, one pass of the actor a step, and one update a rollout."""
    model = REINFORCE("MlpPolicy", env, n_steps=N_STEPS, seed=0, device="cpu")
    model.learn(N_STEPS * env.num_envs)
    alone, actor = stepping(env, n_vector_steps), FastActor(model.policy, env.num_envs)
    obs = np.zeros((env.num_envs, 4), dtype=np.float32)

    def rate() -> float:
        per_step = env.num_envs / alone()
        started = time.perf_counter()
        for _ in range(n_vector_steps):
            actor.act(obs)
        per_step += (time.perf_counter() - started) / n_vector_steps
        started = time.perf_counter()
        model.train()
        per_step += (time.perf_counter() - started) / N_STEPS
        return env.num_envs / per_step

    return rate


def updating(micro_batch_size: int | None, n_envs: int = 1024) -> Rate:
    """Rows per second of one update of REINFORCE on 131,072 rows."""
    env = batched(n_envs)
    model = REINFORCE(
        "MlpPolicy", env, n_steps=N_STEPS, seed=0, device="cpu", micro_batch_size=micro_batch_size, learning_rate=0.0
    )
    model.learn(2 * N_STEPS * n_envs)
    batch = model.rollout_buffer.batch
    assert batch is not None

    def rate() -> float:
        started = time.perf_counter()
        model.train()
        return batch.episodes.n_rows / (time.perf_counter() - started)

    return rate


def workloads() -> list[Workload]:
    """All of them; a model is made when its workload's turn comes."""
    passes: dict[str, Any] = {"n_epochs": 4, "batch_size": 512, "learning_rate": 3e-4}
    joint: dict[str, Any] = {"value_learning_rate": None, "n_value_updates": 1}
    return [
        Workload(
            f"{ENV_ID}, SB3's make_vec_env, {n_envs} environments",
            {
                "A2C": learning(A2C, dummy(n_envs), 40 if n_envs == 8 else 6),
                "stepping alone": stepping(dummy(n_envs), 5000 if n_envs == 8 else 700),
                "limit": limit(dummy(n_envs), 1000),
                "REINFORCE": learning(REINFORCE, dummy(n_envs), 40 if n_envs == 8 else 6),
            },
            aim,
        )
        for n_envs, aim in ((8, "3.0"), (64, "2.5"))
    ] + [
        Workload(
            f"{ENV_ID}, backend gymnasium, 1,024 environments",
            {
                "A2C": learning(A2C, batched(1024), 2),
                "stepping alone": stepping(batched(1024), 256),
                "limit": limit(batched(1024), 256),
                "REINFORCE": learning(REINFORCE, batched(1024), 2),
            },
            "3.0, and 75% of the limit",
        ),
        Workload(
            "one update of 131,072 rows", {"in one piece": updating(10**9), "in pieces of 4,096": updating(None)}, "2.0"
        ),
        Workload(
            f"{ENV_ID}, SB3's make_vec_env, 8 environments, four passes of 512 rows",
            {
                "PPO": learning(PPO, dummy(8), 20, **passes),
                "OffPolicyISPG": learning(
                    OffPolicyISPG, dummy(8), 20, **passes, **joint, target_kl=None, clip_range=0.2
                ),
            },
            "1.5",
        ),
        Workload(
            f"{ENV_ID}, SB3's make_vec_env, 8 environments, one pass",
            {
                "PPO": learning(PPO, dummy(8), 20, n_epochs=1, batch_size=1024),
                "VanillaPG": learning(VanillaPG, dummy(8), 20, **joint),
            },
            "1.5",
        ),
    ]


def growth() -> dict[int, Rate]:
    """REINFORCE on ever more environments."""
    return {
        n: learning(REINFORCE, batched(n), max(1, 65_536 // (n * N_STEPS))) for n in (8, 32, 128, 512, 1024, 2048, 4096)
    }
