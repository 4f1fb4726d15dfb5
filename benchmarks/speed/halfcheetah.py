"""Collecting on EnvPool's HalfCheetah, against what stepping alone leaves possible."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv

from benchmarks.speed.timing import Workload, table
from benchmarks.speed.workloads import N_STEPS, collecting, learning, stepping
from sb3_pg import VanillaPG, make_vec_env

N_ENVS = 64
NAME = f"HalfCheetah-v4 on EnvPool, {N_ENVS} environments"


def halfcheetah() -> VecEnv:
    """EnvPool's, with as many threads as it takes by itself."""
    return make_vec_env("HalfCheetah-v4", N_ENVS, seed=0, backend="envpool")


def halfcheetah_section() -> str:
    """The rates of collecting and of learning; a line where EnvPool is missing."""
    if find_spec("envpool") is None:
        return f'## {NAME}\n\nNot timed: EnvPool is not installed (`pip install "sb3-pg[envpool]"`).\n'
    critic: dict[str, Any] = {"value_learning_rate": 1e-3, "n_value_updates": 10}
    one_pass: dict[str, Any] = {"n_epochs": 1, "batch_size": N_STEPS * N_ENVS}
    return table(
        Workload(
            NAME,
            {
                "stepping alone": stepping(halfcheetah(), 800),
                "PPO, collecting": collecting(PPO, halfcheetah(), 6, **one_pass),
                "VanillaPG, learning": learning(VanillaPG, halfcheetah(), 6, **critic),
                "VanillaPG, collecting": collecting(VanillaPG, halfcheetah(), 6, **critic),
            },
            "0.80",
            note="Collecting is all between a rollout's start and its end, values, returns and advantages included; "
            "learning is the whole of `learn`, here with 10 steps of the critic's own optimizer an iteration. PPO "
            "makes one pass in one piece. Stepping alone takes random actions.",
        )
    )
