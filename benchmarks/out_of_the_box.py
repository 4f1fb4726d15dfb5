"""One line of code, plain defaults, ten tasks of all kinds: ``python -m benchmarks.out_of_the_box``.

Our three algorithms, SB3's PPO and A2C, with 8 environments and with one. Interrupted, it goes on where it stopped, in
another checkout too, if ``docs/results/out_of_the_box/runs.tar.xz`` is committed. The page is
``docs/results/out_of_the_box.md``; the extra ``envs`` has what it needs.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.evaluation import evaluate_policy

from benchmarks.provenance import Stamp, publish
from benchmarks.runs import contender, kept, trained
from sb3_pg import REINFORCE, OffPolicyISPG, VanillaPG
from sb3_pg.compare.anchors import published
from sb3_pg.compare.comparison import Comparison, compare_records
from sb3_pg.compare.verdict import verdict
from sb3_pg.envs import make_vec_env

PAGE, RESULTS, FOLDER = Path("docs/results/out_of_the_box.md"), Path("docs/results/out_of_the_box"), Path("runs/box")
#: What is kept of the reports' files: they draw all figures themselves.
KEPT = ("report.html", "scores.csv")
#: Short and long, discrete and continuous, dense and sparse, ended by themselves or by a time limit.
ENV_IDS = (
    *("CartPole-v1", "Acrobot-v1", "Pendulum-v1", "MountainCarContinuous-v0", "LunarLander-v3", "BipedalWalker-v3"),
    *("HalfCheetah-v4", "Hopper-v4", "Walker2d-v4", "Swimmer-v4"),
)
#: Where an episode ends by itself, before a time limit: what a method without a critic is made for.
EPISODIC = ("CartPole-v1", "Acrobot-v1", "LunarLander-v3", "BipedalWalker-v3", "Hopper-v4", "Walker2d-v4")
CONTENDERS = [contender(one.__name__, one) for one in (VanillaPG, OffPolicyISPG, REINFORCE, PPO, A2C)]
STEPS, SEEDS, N_ENVS = 300_000, range(20, 25), (8, 1)


class RandomActions:
    """What ``evaluate_policy`` asks for actions: drawn uniformly."""

    def __init__(self, action_space: spaces.Space[Any]) -> None:
        self.action_space = action_space
        self.action_space.seed(0)

    def predict(self, observation: np.ndarray, state: Any = None, *_: Any, **__: Any) -> tuple[np.ndarray, Any]:
        """An action for each observation."""
        return np.array([self.action_space.sample() for _ in observation]), state


def random_score(env_id: str, n_episodes: int = 20) -> float:
    """Mean return of episodes of random actions."""
    env = make_vec_env(env_id, 1, seed=0)
    score, _ = evaluate_policy(RandomActions(env.action_space), env, n_episodes, warn=False)  # type: ignore[arg-type]
    env.close()
    return float(np.mean(score))


def scale(env_ids: Sequence[str] = ENV_IDS) -> dict[str, tuple[float, float]]:
    """Of each task the score of random actions, and the Zoo's published one of PPO."""
    zoo = {env_id: next(one.score for one in published(env_id) if one.algorithm == "PPO") for env_id in env_ids}
    return {env_id: (random_score(env_id), one) for env_id, one in zoo.items()}


def compared(n_envs: int, ends: Mapping[str, tuple[float, float]]) -> Comparison:
    """Every algorithm on every task, with so many environments side by side."""
    runs = {
        one.label: trained(FOLDER, [one], list(ends), SEEDS, STEPS, n_envs=n_envs, n_eval_episodes=20)
        for one in reversed(CONTENDERS)  # each apart, as its runs are those of its own code; SB3's first
    }
    return compare_records([record for one in CONTENDERS for record in runs[one.label]], scale=dict(ends))


def name_of(n_envs: int) -> str:
    """What a section and its folder are called."""
    return "1 environment" if n_envs == 1 else f"{n_envs} environments"


def folder_of(n_envs: int) -> str:
    """Where its report lies."""
    return name_of(n_envs).replace(" ", "_")


def table(found: Comparison, env_ids: Sequence[str]) -> str:
    """Final scores: a line a task, and one of all of them."""
    labels = [one.label for one in CONTENDERS]
    lines = ["| final score | " + " | ".join(labels) + " |", "|---" * (len(labels) + 1) + "|"]
    for env_id in env_ids:
        own = {task.algorithm: task for task in found.analysis.tasks if task.env_id == env_id}
        cells = [f"{own[label].iqm:,.0f} ({own[label].lowest:,.0f} to {own[label].highest:,.0f})" for label in labels]
        lines.append(f"| {env_id} | " + " | ".join(cells) + " |")
    every = {label: found.analysis.aggregates[label]["IQM"] for label in labels}
    cells = [f"{one.estimate:.2f} ({one.low:.2f} to {one.high:.2f})" for one in every.values()]
    return "\n".join([*lines, "| **normalised, IQM** | " + " | ".join(cells) + " |"])


def section(found: Comparison, n_envs: int, ends: Mapping[str, tuple[float, float]]) -> str:
    """What the runs with so many environments show."""
    first, *others = verdict(found.analysis)
    episodic = compare_records(
        [record for record in found.records if record.env_id in EPISODIC],
        scale={env_id: ends[env_id] for env_id in EPISODIC},
    ).analysis.aggregates
    own, theirs = (episodic[one.__name__]["IQM"] for one in (REINFORCE, A2C))
    listed = "\n".join(f"- {line}" for line in others)
    return f"""## {name_of(n_envs)}

{table(found, ENV_IDS)}

{first}

{listed}

On the {len(EPISODIC)} tasks whose episodes end by themselves REINFORCE has {own.estimate:.2f} ({own.low:.2f} to
{own.high:.2f}) and A2C {theirs.estimate:.2f} ({theirs.low:.2f} to {theirs.high:.2f}).

[The whole report](out_of_the_box/{folder_of(n_envs)}/report.html), one file to open in a browser, and the
[scores](out_of_the_box/{folder_of(n_envs)}/scores.csv).
"""


def page(found: Mapping[int, Comparison], ends: Mapping[str, tuple[float, float]]) -> str:
    """How it was measured, and a section for each number of environments."""
    listed = ", ".join(f"{env_id} {zero:,.0f} and {one:,.0f}" for env_id, (zero, one) in ends.items())
    return f"""# Out of the box: plain defaults on ten tasks

Made by `python -m benchmarks.out_of_the_box`. One line of code and no argument: `"MlpPolicy"` and the constructor's
defaults, SB3's for PPO and A2C. {STEPS:,} environment steps, seeds {SEEDS[0]} to {SEEDS[-1]}, by which nothing was
chosen. A score is the mean return of 20 episodes of the deterministic policy after the last update, the same episodes
for all; a cell has the IQM over the seeds and their range. Normalised, 0 is the score of random actions and 1 the one
that the RL Zoo publishes for PPO, of its tuned settings and longer training ({listed}).
PPO and A2C are Stable-Baselines3's.

{chr(10).join(section(one, n_envs, ends) for n_envs, one in found.items())}"""


def main() -> int:
    """Train what is missing; write the reports, and the page with a section more after each number of environments."""
    stamp = Stamp.now(PAGE)
    ends, found = scale(), dict[int, Comparison]()
    for n_envs in N_ENVS:
        with kept(FOLDER, RESULTS / "runs.tar.xz"):
            found[n_envs] = compared(n_envs, ends)
        folder = folder_of(n_envs)
        written = found[n_envs].write(FOLDER / "report" / folder, f"Plain defaults, {name_of(n_envs)}").parent
        (RESULTS / folder).mkdir(parents=True, exist_ok=True)
        for file in KEPT:
            shutil.copyfile(written / file, RESULTS / folder / file)
        publish(page(found, ends), PAGE, stamp)
    return 0


if __name__ == "__main__":
    sys.exit(main())
