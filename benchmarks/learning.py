"""How reliably the tuned configurations learn: ``python -m benchmarks.learning``.

None of the seeds was used to choose a setting. Interrupted, it goes on where it stopped: a finished run is kept,
as long as neither code nor settings change. The tables go to ``docs/results/learning.md``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median

from stable_baselines3.common.base_class import BaseAlgorithm

from benchmarks.provenance import Stamp, publish
from benchmarks.runs import budget_of, shipped, there, trained
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
    :param settings: configurations, each with its budget
    """

    env_id: str
    target: float
    settings: Sequence[tuple[Contender, int]]


def tuned(env_id: str, target: float, *algorithms: type[BaseAlgorithm]) -> Task:
    """A task with the configurations that were tuned for it, each with its own budget."""
    return Task(env_id, target, [(shipped(one.__name__, one, env_id), budget_of(one, env_id)) for one in algorithms])


#: By which no setting was chosen.
SEEDS = range(10)
TASKS = (
    tuned("CartPole-v1", 490.0, REINFORCE, VanillaPG, OffPolicyISPG),
    tuned("Pendulum-v1", -250.0, VanillaPG),
    tuned("MountainCarContinuous-v0", 80.0, VanillaPG, OffPolicyISPG),
)


def records_of(task: Task) -> list[Record]:
    """Every setting with every seed, evaluated at the end."""
    return [
        record
        for setting, n_steps in task.settings
        for record in trained(FOLDER, [setting], task.env_id, SEEDS, n_steps, eval_every=n_steps, n_eval_episodes=100)
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
        "# How reliably the tuned configurations learn\n\nMade by `python -m benchmarks.learning`: the configurations "
        f"of `zoo_configs/` with their own budgets, seeds {SEEDS[0]} to\n{SEEDS[-1]}, by which none was chosen. "
        "Reached: the mean return of the last 100 training episodes, of the stochastic\npolicy, is the target or "
        "more. Final score: mean return of 100 episodes of the deterministic policy after the last\nstep, the same "
        "ones for all, whatever came before.\n\n" + "\n\n".join(tables) + "\n"
    )


def main() -> int:
    """Train what is missing, print and write the tables."""
    stamp = Stamp.now(TABLE)
    publish(page([table(task, records_of(task)) for task in TASKS]), TABLE, stamp)
    return 0


if __name__ == "__main__":
    sys.exit(main())
