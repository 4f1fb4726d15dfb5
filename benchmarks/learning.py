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
from benchmarks.runs import contender, shipped, there, trained
from sb3_pg import REINFORCE, OffPolicyISPG, VanillaPG
from sb3_pg.compare.grid import Contender
from sb3_pg.compare.records import Record
from sb3_pg.compare.scores import WINDOW, scores_of
from sb3_pg.statistics import Passage, first_passage

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
            (contender("REINFORCE, defaults", REINFORCE, n_envs=1), 200_000),
            (shipped("REINFORCE, 8 environments", REINFORCE, "CartPole-v1"), 200_000),
            (contender("VanillaPG, defaults, 8 environments", VanillaPG), 100_000),
            (contender("OffPolicyISPG, defaults, 8 environments", OffPolicyISPG), 100_000),
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


def records_of(task: Task) -> list[Record]:
    """Every setting with every seed, evaluated at the end."""
    return [
        record
        for setting, n_steps in task.settings
        for record in trained(
            FOLDER, [setting], task.env_id, task.seeds, n_steps, eval_every=n_steps, n_eval_episodes=100
        )
    ]


def passage(record: Record, target: float) -> Passage:
    """When the mean of the last 100 training episodes first was the target or more."""
    episodes = there(record.episodes)
    return first_passage(episodes.steps, episodes.returns, target, WINDOW)


def table(task: Task, records: Sequence[Record]) -> str:
    """A line a setting."""
    lines = [
        f"| {task.env_id} | environment steps | seeds that reach {task.target:.0f} | median steps to it | slowest | "
        "final score, median | lowest |",
        "|---|---|---|---|---|---|---|",
    ]
    scores = scores_of(records, "final")
    for setting, budget in task.settings:
        passages = [passage(record, task.target) for record in records if record.algorithm == setting.label]
        solved = [one.time for one in passages if one.reached]
        final = scores.of(setting.label, task.env_id).tolist()
        steps = f"{median(solved):,.0f} | {max(solved):,.0f}" if solved else "- | -"
        lines.append(
            f"| {setting.label} | {budget:,} | {len(solved)} of {len(passages)} | {steps} | "
            f"{median(final):.1f} (mean {mean(final):.1f}) | {min(final):.1f} |"
        )
    return "\n".join(lines)


def page(tables: Iterable[str]) -> str:
    """All tables, and how to read them."""
    return (
        "# How reliably the algorithms learn\n\nMade by `python -m benchmarks.learning`. Reached: the mean return of "
        "the last 100 training\nepisodes, of the stochastic policy, is the target or more. Final score: mean return of "
        "100 episodes of the\ndeterministic policy after the last step, the same ones for all, whatever came before. "
        "Settings: `zoo_configs/`.\n\n" + "\n\n".join(tables) + "\n"
    )


def main() -> int:
    """Train what is missing, print and write the tables."""
    stamp = Stamp.now(TABLE)
    publish(page([table(task, records_of(task)) for task in TASKS]), TABLE, stamp)
    return 0


if __name__ == "__main__":
    sys.exit(main())
