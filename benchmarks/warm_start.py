"""From scratch, and from demonstrations: ``python -m benchmarks.warm_start``, some ten minutes on two cores.

PPO plays what is cloned; then the same algorithm learns on, beside one that begins with nothing. Writes
``docs/results/warm_start.md``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import numpy as np
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from benchmarks.provenance import Stamp, publish
from sb3_pg import REINFORCE, VanillaPG
from sb3_pg.envs import make_vec_env
from sb3_pg.imitation import played_by, warm_start

PAGE = Path("docs/results/warm_start.md")
SEEDS, N_ENVS, N_EVAL_EPISODES, N_DEMONSTRATIONS = range(20, 25), 8, 20, 16


@dataclass(frozen=True)
class Task:
    """What is learned.

    :param expert_steps: of the PPO whose play is cloned, behind VecNormalize
    :param every: steps from one evaluation to the next
    :param threshold: mean return that counts as having learned it
    """

    env_id: str
    algorithm: type[REINFORCE] | type[VanillaPG]
    expert_steps: int
    n_steps: int
    every: int
    threshold: float


TASKS = (
    Task("CartPole-v1", REINFORCE, 60_000, 100_000, 10_000, 475.0),
    Task("Acrobot-v1", VanillaPG, 100_000, 100_000, 10_000, -100.0),
)


@dataclass(frozen=True)
class Run:
    """Mean returns from the beginning on.

    :param expert: that of the demonstrations; nan from scratch
    """

    returns: Sequence[float]
    expert: float


def envs(task: Task, seed: int) -> VecEnv:
    """Behind VecNormalize: demonstrations are the environment's own numbers, and a warm start learns the statistics."""
    return VecNormalize(make_vec_env(task.env_id, N_ENVS, seed=seed), norm_reward=False)


def score(model: BaseAlgorithm, task: Task, seed: int) -> float:
    """Mean return of the deterministic policy, on the same episodes for all."""
    env = VecNormalize(make_vec_env(task.env_id, N_ENVS, seed=1000 + seed), training=False, norm_reward=False)
    statistics = model.get_vec_normalize_env()
    if statistics is not None:
        env.obs_rms = statistics.obs_rms
    mean, _ = evaluate_policy(model, env, N_EVAL_EPISODES, warn=False)
    env.close()
    return float(np.mean(mean))


def expert_of(task: Task, seed: int) -> OnPolicyAlgorithm:
    """PPO with its defaults."""
    return PPO("MlpPolicy", envs(task, seed), seed=seed, device="cpu", n_steps=256).learn(task.expert_steps)


def run(task: Task, seed: int, is_warm: bool) -> Run:
    """Learn, from scratch or from an expert's episodes, with an evaluation at every so many steps."""
    th.set_num_threads(1)
    model = task.algorithm("MlpPolicy", envs(task, seed), seed=seed, device="cpu")
    earned = float("nan")
    if is_warm:
        demonstrations = played_by(expert_of(task, seed), n_episodes=N_DEMONSTRATIONS)
        rewards = [one.rewards for one in demonstrations if one.rewards is not None]
        earned = float(np.mean([one.sum() for one in rewards]))
        warm_start(model, demonstrations)
    returns = [score(model, task, seed)]
    for _ in range(0, task.n_steps, task.every):
        model.learn(task.every, reset_num_timesteps=False)
        returns.append(score(model, task, seed))
    return Run(returns, earned)


def steps_to(task: Task, one: Run) -> float:
    """Environment steps of the learner to the first evaluation at the threshold; infinite if there is none."""
    reached = [n * task.every for n, value in enumerate(one.returns) if value >= task.threshold]
    return reached[0] if reached else float("inf")


def section(task: Task, found: dict[bool, list[Run]]) -> str:
    """A table of the two."""
    lines = [
        f"| | return at 0 steps | seeds that reach {task.threshold:g} | median steps to it | final score, median |",
        "|---|---|---|---|---|",
    ]
    for is_warm, runs in found.items():
        steps = [steps_to(task, one) for one in runs]
        reached = sum(np.isfinite(steps))
        middle, last = median(steps), median(one.returns[-1] for one in runs)
        cells = [f"{median(one.returns[0] for one in runs):.0f}", f"{reached} of {len(runs)}"]
        cells += [f"{middle:,.0f}" if np.isfinite(middle) else "not reached", f"{last:.0f}"]
        lines.append(f"| {'warm start' if is_warm else 'from scratch'} | " + " | ".join(cells) + " |")
    earned = median(one.expert for one in found[True])
    return f"""## {task.env_id}, {task.algorithm.__name__}

{N_DEMONSTRATIONS} episodes of a PPO after {task.expert_steps:,} steps (which are not counted below), whose return was
{earned:.0f} in the median; then {task.n_steps:,} steps.

{chr(10).join(lines)}"""


def main() -> int:
    """Train, and write the page."""
    stamp, sections = Stamp.now(PAGE), []
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        jobs = {
            task: {is_warm: [pool.submit(run, task, seed, is_warm) for seed in SEEDS] for is_warm in (False, True)}
            for task in TASKS
        }
        for task, both in jobs.items():
            sections.append(section(task, {is_warm: [job.result() for job in runs] for is_warm, runs in both.items()}))
    text = f"""# From scratch, and from demonstrations

Made by `python -m benchmarks.warm_start`. Defaults, {N_ENVS} environments behind VecNormalize, seeds {SEEDS[0]} to
{SEEDS[-1]}, by which nothing was chosen; an evaluation is {N_EVAL_EPISODES} episodes of the deterministic policy.
`warm_start` has its defaults too: ten passes over the demonstrations, and the critic, where there is one, fitted to
their rewards to go.

{chr(10).join(one + chr(10) for one in sections)}"""
    publish(text, PAGE, stamp)
    return 0


if __name__ == "__main__":
    sys.exit(main())
