"""How reliably the shipped settings learn: ``python -m benchmarks.learning`` (the extra ``envs`` has LunarLander).

None of the seeds was used to choose a setting. Interrupted, it goes on where it stopped: a finished run is kept,
as long as neither code nor settings change. The tables go to ``docs/results/learning.md``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median

from benchmarks.provenance import Stamp, publish
from benchmarks.runs import Contender, Result, Run, resume_all, shipped
from sb3_pg import REINFORCE, OffPolicyISPG, VanillaPG

FOLDER = Path("runs/learning")
TABLE = Path("docs/results/learning.md")


@dataclass(frozen=True)
class Task:
    """An environment, and what it takes to have solved it.

    :param target: mean return of the last 100 training episodes
    """

    env_id: str
    target: float
    seeds: range
    settings: Sequence[tuple[Contender, int]]


TASKS = (
    Task(
        "CartPole-v1",
        490.0,
        range(10),
        (
            (Contender("REINFORCE, defaults", REINFORCE, n_envs=1), 200_000),
            (shipped("REINFORCE, 8 environments", REINFORCE, "CartPole-v1"), 200_000),
            (Contender("VanillaPG, defaults, 8 environments", VanillaPG), 100_000),
            (Contender("OffPolicyISPG, defaults, 8 environments", OffPolicyISPG), 100_000),
        ),
    ),
    Task(
        "Pendulum-v1",
        -300.0,
        range(5),
        (
            (shipped("VanillaPG on Pendulum", VanillaPG, "Pendulum-v1"), 300_000),
            (shipped("OffPolicyISPG on Pendulum", OffPolicyISPG, "Pendulum-v1"), 300_000),
        ),
    ),
    Task(
        "LunarLander-v3",
        150.0,
        range(3),
        ((shipped("OffPolicyISPG on LunarLander", OffPolicyISPG, "LunarLander-v3"), 500_000),),
    ),
)


def planned_runs(task: Task) -> list[Run]:
    """Every setting with every seed."""
    return [
        Run(
            contender,
            task.env_id,
            seed,
            n_steps,
            FOLDER / f"{contender.name.replace(', ', '_').replace(' ', '_')}_{seed}",
            eval_every=10_000,
            n_final_episodes=100,
            train_target=task.target,
        )
        for contender, n_steps in task.settings
        for seed in task.seeds
    ]


def table(task: Task, results: Sequence[Result]) -> str:
    """A line a setting."""
    lines = [
        f"| {task.env_id} | environment steps | seeds that reach {task.target:.0f} | median steps to it | slowest | "
        "final score, median | lowest |",
        "|---|---|---|---|---|---|---|",
    ]
    for contender, budget in task.settings:
        own = [result for result in results if result.name == contender.name]
        solved = [result.train_target_steps for result in own if result.train_target_steps is not None]
        final = [result.final_score for result in own if result.final_score is not None]
        steps = f"{median(solved):,.0f} | {max(solved):,}" if solved else "- | -"
        lines.append(
            f"| {contender.name} | {budget:,} | {len(solved)} of {len(own)} | {steps} | "
            f"{median(final):.1f} (mean {mean(final):.1f}) | {min(final):.1f} |"
        )
    return "\n".join(lines)


def page(tables: Iterable[str]) -> str:
    """All tables, and how to read them."""
    return (
        "# How reliably the algorithms learn\n\nMade by `python -m benchmarks.learning`. Reached: the mean return of "
        "the last 100 training\nepisodes, of the stochastic policy, is the target or more. Final score: mean return of "
        "100 episodes of the\ndeterministic policy after the last step, whatever came before. Settings: "
        "`zoo_configs/`.\n\n" + "\n\n".join(tables) + "\n"
    )


def main() -> int:
    """Train what is missing, print and write the tables."""
    stamp = Stamp.now(TABLE)
    publish(page([table(task, resume_all(planned_runs(task))) for task in TASKS]), TABLE, stamp)
    return 0


if __name__ == "__main__":
    sys.exit(main())
