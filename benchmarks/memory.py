"""Tasks that need a memory, by policies with and without one: ``python -m benchmarks.memory``.

Interrupted, it goes on where it stopped, in another checkout too, if ``docs/results/memory/runs.tar.xz`` is committed.
The page is ``docs/results/memory.md``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm

from benchmarks.memory_tasks import OPTIMUM
from benchmarks.provenance import Stamp, publish
from benchmarks.runs import contender, kept, there, trained
from sb3_pg import REINFORCE, OffPolicyISPG, VanillaPG
from sb3_pg.compare.grid import Contender
from sb3_pg.compare.records import Record

PAGE, ARCHIVE, FOLDER = Path("docs/results/memory.md"), Path("docs/results/memory/runs.tar.xz"), Path("runs/memory")
#: By which nothing was chosen.
SEEDS = range(20, 25)
#: What a network is given, whatever the algorithm; without layers behind it a memory is learned sooner.
NETWORKS: dict[str, dict[str, Any]] = {
    "MLP": {"policy": "MlpPolicy"},
    "LSTM": {"policy": "MlpLstmPolicy", "policy_kwargs": {"lstm_hidden_size": 64, "net_arch": []}},
    "Transformer": {
        "policy": "MlpAttentionPolicy",
        "policy_kwargs": {"context_length": 32, "d_model": 32, "net_arch": []},
    },
}


@dataclass(frozen=True, eq=False)
class Task:
    """An environment, with its budget.

    :param solved: share of the optimum that counts as reached
    :param settings: of all algorithms
    :param own: an algorithm's, beside these
    """

    env_id: str
    n_steps: int
    solved: float
    settings: dict[str, Any]
    own: dict[type[BaseAlgorithm], dict[str, Any]]

    @property
    def optimum(self) -> float:
        """The best mean return."""
        return OPTIMUM[self.env_id]

    @property
    def module_id(self) -> str:
        """The id by which Gymnasium finds it in any process."""
        return f"benchmarks.memory_tasks:{self.env_id}"


TASKS = (
    Task("RepeatFirst-v0", 100_000, 0.99, {}, {REINFORCE: {"n_steps": 64}}),
    Task("TMaze-v0", 200_000, 0.99, {}, {REINFORCE: {"n_steps": 64}}),
    Task("CartPoleNoVelocity-v0", 200_000, 0.95, {"normalize": True}, {REINFORCE: {"n_steps": 128}}),
)
ALGORITHMS: tuple[type[BaseAlgorithm], ...] = (REINFORCE, VanillaPG, OffPolicyISPG)


def contenders(task: Task) -> list[Contender]:
    """Every algorithm with every network, and sb3-contrib's RecurrentPPO with the LSTM."""
    ours = [
        contender(f"{algorithm.__name__}, {name}", algorithm, **network | task.settings | task.own.get(algorithm, {}))
        for algorithm in ALGORITHMS
        for name, network in NETWORKS.items()
    ]
    return [*ours, Contender("RecurrentPPO, LSTM", "ppo_lstm", NETWORKS["LSTM"] | task.settings)]


def records_of(task: Task) -> list[Record]:
    """All runs of a task."""
    return [
        record
        for one in contenders(task)  # each apart, as its runs are those of its own code
        for record in trained(FOLDER, [one], task.module_id, SEEDS, task.n_steps, n_eval_episodes=50)
    ]


def table(task: Task, records: Sequence[Record]) -> str:
    """A line for each contender."""
    lines = [
        "| | seeds that reach the optimum | final score, median | lowest | seconds of a run |",
        "|---|---|---|---|---|",
    ]
    for one in contenders(task):
        own = [record for record in records if record.algorithm == one.label]
        scores = np.array([np.mean(there(record.evaluations).returns[-1]) for record in own])
        reached = int((scores >= task.solved * task.optimum).sum())
        seconds = np.median([record.facts.get("train_seconds", np.nan) for record in own])
        lines.append(
            f"| {one.label} | {reached} of {len(own)} | {np.median(scores):.2f} | {scores.min():.2f} | {seconds:.0f} |"
        )
    return "\n".join(lines)


def page(found: dict[Task, list[Record]]) -> str:
    """A section for each task."""
    sections = "\n\n".join(
        f"## {task.env_id}\n\n{task.n_steps:,} environment steps; the optimum is {task.optimum:g}, and a final score "
        f"of {task.solved * task.optimum:g} counts as reaching it.\n\n{table(task, records)}"
        for task, records in found.items()
    )
    return f"""# Tasks that need a memory

Made by `python -m benchmarks.memory`. 8 environments, seeds {SEEDS[0]} to {SEEDS[-1]}, by which nothing was chosen;
defaults but for what `benchmarks/memory.py` says: LSTMs of 64 units, Transformers with 32 numbers a step and a context
of 32, nothing behind them. A score is the mean return of 50 episodes of the deterministic policy after the last update.
`RepeatFirst` asks after ten steps for the first observation, `TMaze` at the end of a corridor for the sign at its
beginning (`benchmarks/memory_tasks.py`); CartPole's velocities are hidden.

{sections}
"""


def main() -> int:
    """Train what is missing; write the page."""
    stamp, found = Stamp.now(PAGE), dict[Task, list[Record]]()
    for task in TASKS:
        with kept(FOLDER, ARCHIVE):
            found[task] = records_of(task)
    publish(page(found), PAGE, stamp)
    return 0


if __name__ == "__main__":
    sys.exit(main())
