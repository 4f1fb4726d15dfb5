"""What is timed: each contender of a workload is a function that returns environment steps (or rows) per second."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
from gymnasium.vector.utils import batch_space
from sb3_contrib import RecurrentPPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env as sb3_make_vec_env
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv

from benchmarks.speed.tianshou_reinforce import has_tianshou, learning_tianshou
from benchmarks.speed.timing import Rate, Workload
from sb3_pg import REINFORCE, OffPolicyISPG, VanillaPG, make_vec_env
from sb3_pg.data.minibatches import CACHE_ROWS
from sb3_pg.policies.acting import actor_of

ENV_ID, N_STEPS = "CartPole-v1", 128
#: Rows of a micro-batch that takes any batch in one piece.
ONE = 10**9


def dummy(n_envs: int) -> VecEnv:
    """SB3's own vector environment."""
    return sb3_make_vec_env(ENV_ID, n_envs, seed=0)


def batched(n_envs: int) -> VecEnv:
    """Gymnasium's CartPole that is computed all at once."""
    return make_vec_env(ENV_ID, n_envs, seed=0, backend="gymnasium")


def new_model(
    algorithm: type[OnPolicyAlgorithm], env: VecEnv, policy: str = "MlpPolicy", **settings: Any
) -> OnPolicyAlgorithm:
    """With the algorithm's defaults but for the size of a rollout."""
    return algorithm(policy, env, n_steps=N_STEPS, seed=0, device="cpu", **settings)


def warm_model(algorithm: type[OnPolicyAlgorithm], env: VecEnv, **settings: Any) -> OnPolicyAlgorithm:
    """A model that has been through one rollout, and that does not learn: what it does next is always the same work."""
    return new_model(algorithm, env, learning_rate=0.0, **settings).learn(N_STEPS * env.num_envs)


def learning(algorithm: type[OnPolicyAlgorithm], env: VecEnv, n_rollouts: int, **settings: Any) -> Rate:
    """Environment steps per second of a new model's ``learn``, with the callbacks that it has by default.

    A model that went on from round to round would play ever longer episodes, which are less work.
    """
    n_steps = n_rollouts * N_STEPS * env.num_envs

    def rate() -> float:
        model = new_model(algorithm, env, **settings)
        started = time.perf_counter()
        model.learn(n_steps)
        return n_steps / (time.perf_counter() - started)

    return rate


class CollectionClock(BaseCallback):
    """Seconds between the starts of rollouts and their ends."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0

    def _on_rollout_start(self) -> None:
        self._started = time.perf_counter()

    def _on_rollout_end(self) -> None:
        self.seconds += time.perf_counter() - self._started

    def _on_step(self) -> bool:
        return True


def collecting(algorithm: type[OnPolicyAlgorithm], env: VecEnv, n_rollouts: int, **settings: Any) -> Rate:
    """Environment steps per second of collection alone, while ``learn`` runs."""
    model = warm_model(algorithm, env, **settings)
    n_steps = n_rollouts * N_STEPS * env.num_envs

    def rate() -> float:
        clock = CollectionClock()
        model.learn(n_steps, callback=clock)
        return n_steps / clock.seconds

    return rate


def stepping(env: VecEnv, n_vector_steps: int) -> Rate:
    """Environment steps per second of ``env.step`` alone, with random actions drawn beforehand."""
    env.reset()
    space = batch_space(env.action_space, env.num_envs)
    space.seed(0)
    actions = [space.sample() for _ in range(n_vector_steps)]

    def rate() -> float:
        started = time.perf_counter()
        for action in actions:
            env.step(action)
        return n_vector_steps * env.num_envs / (time.perf_counter() - started)

    return rate


def limit(env: VecEnv, n_vector_steps: int) -> Rate:
    """What REINFORCE could reach: stepping, one pass of the actor a step, and one update a rollout, of a batch that is
    there already.
    """
    model, alone = warm_model(REINFORCE, env), stepping(env, n_vector_steps)
    buffer: Any = model.rollout_buffer
    asked = ("batch", "buffer_size", "gamma", "gae_lambda")
    model.rollout_buffer = SimpleNamespace(**{name: getattr(buffer, name) for name in asked})  # type: ignore[assignment]
    obs = np.zeros((env.num_envs, 4), dtype=np.float32)

    def rate() -> float:
        per_step = env.num_envs / alone()
        actor = actor_of(model.policy, env.num_envs, n_vector_steps)
        started = time.perf_counter()
        for _ in range(n_vector_steps):
            actor.act(obs)
        per_step += (time.perf_counter() - started) / n_vector_steps
        started = time.perf_counter()
        model.train()
        per_step += (time.perf_counter() - started) / N_STEPS
        return env.num_envs / per_step

    return rate


def make_plain(policy: ActorCriticPolicy) -> None:
    """Have all passes go through the policy's own methods, as where a user listens to it."""
    policy.register_forward_hook(lambda module, arguments, output: None)


def updating(
    algorithm: type[OnPolicyAlgorithm],
    prepare: Callable[[ActorCriticPolicy], None] | None = None,
    n_envs: int = 1024,
    **settings: Any,
) -> Rate:
    """Rows per second of one update on 131,072 rows, the same ones again and again.

    :param prepare: what is done to the policy before
    """
    model = warm_model(algorithm, batched(n_envs), **settings)
    if prepare is not None:
        prepare(model.policy)
    model.learn(N_STEPS * n_envs)
    batch = getattr(model.rollout_buffer, "batch", None)
    n_rows = N_STEPS * n_envs if batch is None else batch.episodes.n_rows

    def rate() -> float:
        started = time.perf_counter()
        for _ in range(5):
            model.train()
        return 5 * n_rows / (time.perf_counter() - started)

    return rate


def few_environments(n_envs: int, n_rollouts: int, aim: str, with_tianshou: bool = False) -> Workload:
    """SB3's vector environment, which steps one environment after the other.

    :param with_tianshou: compare with Tianshou too, if it is there
    """
    contenders = {
        "A2C": learning(A2C, dummy(n_envs), n_rollouts),
        "stepping alone": stepping(dummy(n_envs), 40_000 // n_envs),
        "limit": limit(dummy(n_envs), 1000),
    }
    note = ""
    if with_tianshou and has_tianshou():
        contenders["Tianshou's Reinforce, on its own DummyVectorEnv"] = learning_tianshou(ENV_ID, n_envs, N_STEPS, 10)
    elif with_tianshou:
        note = "Tianshou's Reinforce was not timed: Tianshou 2 is not installed."
    contenders["REINFORCE"] = learning(REINFORCE, dummy(n_envs), n_rollouts)
    return Workload(f"{ENV_ID}, SB3's make_vec_env, {n_envs} environments", contenders, aim, note=note)


def many_environments() -> Workload:
    """Gymnasium's vector environment, which steps all at once."""
    contenders = {
        "A2C": learning(A2C, batched(1024), 3),
        "stepping alone": stepping(batched(1024), 256),
        "limit": limit(batched(1024), 256),
        "REINFORCE": learning(REINFORCE, batched(1024), 3),
    }
    return Workload(f"{ENV_ID}, backend gymnasium, 1,024 environments", contenders, "3.0, and 75% of the limit")


def one_update() -> Workload:
    """An update, in several ways."""
    return Workload(
        "one update of 131,072 rows",
        {
            "A2C, in one piece": updating(A2C),
            "REINFORCE, plain, in one piece": updating(REINFORCE, make_plain, micro_batch_size=ONE),
            "plain, in pieces": updating(REINFORCE, make_plain),
            "own passes, in one piece": updating(REINFORCE, micro_batch_size=ONE),
            "REINFORCE: own passes, in pieces": updating(REINFORCE),
        },
        "2.0",
        reference="REINFORCE, plain, in one piece",
        note=f"Pieces are of {CACHE_ROWS:,} rows. Plain: through the policy's own `evaluate_actions`.",
    )


#: As in PPO, one loss for actor and critic.
JOINT: dict[str, Any] = {"value_learning_rate": None, "n_value_updates": 1}


def four_passes() -> Workload:
    """PPO, and what can be configured as PPO."""
    passes: dict[str, Any] = {"n_epochs": 4, "batch_size": 512, "learning_rate": 3e-4}
    contenders = {
        "PPO": learning(PPO, dummy(8), 20, **passes),
        "OffPolicyISPG": learning(OffPolicyISPG, dummy(8), 20, **passes, **JOINT, target_kl=None, clip_range=0.2),
    }
    return Workload(f"{ENV_ID}, SB3's make_vec_env, 8 environments, four passes of 512 rows", contenders, "1.5")


def one_pass() -> Workload:
    """PPO and VanillaPG with as many passes."""
    contenders = {
        "PPO": learning(PPO, dummy(8), 20, n_epochs=1, batch_size=1024),
        "VanillaPG": learning(VanillaPG, dummy(8), 20, **JOINT),
    }
    return Workload(f"{ENV_ID}, SB3's make_vec_env, 8 environments, one pass", contenders, "1.5")


def recurrent() -> Workload:
    """An LSTM: sb3-contrib's RecurrentPPO, and the same passes of ours; collection alone too."""
    passes: dict[str, Any] = {"policy": "MlpLstmPolicy", "n_epochs": 4, "batch_size": 256}
    ours = passes | JOINT | {"target_kl": None, "clip_range": 0.2, "normalize_advantage": True}
    contenders = {
        "RecurrentPPO": learning(RecurrentPPO, dummy(8), 4, **passes),
        "RecurrentPPO, collection": collecting(RecurrentPPO, dummy(8), 4, **passes),
        "OffPolicyISPG, collection": collecting(OffPolicyISPG, dummy(8), 4, **ours),
        "OffPolicyISPG": learning(OffPolicyISPG, dummy(8), 4, **ours),
    }
    return Workload(f"{ENV_ID}, 8 environments, an LSTM of 256 units, four passes of 256 rows", contenders, "1.5")


WORKLOADS: tuple[Callable[[], Workload], ...] = (
    partial(few_environments, 8, 40, "3.0", with_tianshou=True),
    partial(few_environments, 64, 6, "2.5"),
    many_environments,
    one_update,
    four_passes,
    one_pass,
    recurrent,
)


def growth() -> dict[int, Rate]:
    """REINFORCE on ever more environments."""
    return {
        n: learning(REINFORCE, batched(n), max(2, 65_536 // (n * N_STEPS))) for n in (8, 32, 128, 512, 1024, 2048, 4096)
    }
