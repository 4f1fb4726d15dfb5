"""Tasks that need a memory, by policies with and without one: ``python -m benchmarks.memory``.

Interrupted, it goes on where it stopped, in another checkout too, if ``docs/results/memory/runs.tar.xz`` is committed.
The page is ``docs/results/memory.md``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import rl_zoo3
from stable_baselines3.common.base_class import BaseAlgorithm

from benchmarks.memory_tasks import OPTIMUM
from benchmarks.provenance import Stamp, publish
from benchmarks.runs import contender, kept, there, trained
from sb3_pg import REINFORCE, OffPolicyISPG, VanillaPG
from sb3_pg.compare.grid import Contender
from sb3_pg.compare.records import Record
from sb3_pg.zoo.configs import read_configs

PAGE, ARCHIVE, FOLDER = Path("docs/results/memory.md"), Path("docs/results/memory/runs.tar.xz"), Path("runs/memory")
#: What a network is given, whatever the algorithm and the task.
NETWORKS: dict[str, dict[str, Any]] = {
    "MLP": {"policy": "MlpPolicy"},
    "LSTM": {"policy": "MlpLstmPolicy", "policy_kwargs": {"lstm_hidden_size": 64}},
    "Transformer": {"policy": "MlpAttentionPolicy", "policy_kwargs": {"d_model": 32, "n_layers": 1}},
}


@dataclass(frozen=True, eq=False)
class Task:
    """An environment, with its budgets.

    :param n_steps: of the algorithms with a critic
    :param n_steps_reinforce: of REINFORCE, which takes one plain step where the others take many
    :param seeds: by which nothing was chosen
    :param solved: share of the optimum that counts as reached
    :param settings: of all algorithms
    :param own: of an algorithm, or of one with one network, beside these
    :param kwargs: network -> ``policy_kwargs`` beside its own
    :param zoo_id: what the Zoo calls it, if it has tuned RecurrentPPO for it
    """

    env_id: str
    n_steps: int
    n_steps_reinforce: int
    seeds: range
    solved: float
    settings: dict[str, Any]
    own: dict[type[BaseAlgorithm] | tuple[type[BaseAlgorithm], str], dict[str, Any]]
    kwargs: dict[str, dict[str, Any]]
    zoo_id: str | None = None

    @property
    def optimum(self) -> float:
        """The best mean return."""
        return OPTIMUM[self.env_id]

    @property
    def module_id(self) -> str:
        """The id by which Gymnasium finds it in any process."""
        return f"benchmarks.memory_tasks:{self.env_id}"

    def settings_of(self, algorithm: type[BaseAlgorithm], network: str) -> dict[str, Any]:
        """All settings of an algorithm with a network."""
        own = self.own.get(algorithm, {}) | self.own.get((algorithm, network), {})
        return self.network(network) | self.settings | own

    def network(self, name: str) -> dict[str, Any]:
        """Its settings here."""
        own = NETWORKS[name]
        return own | {"policy_kwargs": own["policy_kwargs"] | self.kwargs[name]} if name in self.kwargs else own


#: Without layers behind it a memory is learned sooner; where it has to last, an LSTM has to begin by remembering.
LONG: dict[str, dict[str, Any]] = {
    "LSTM": {"net_arch": [], "forget_bias": 3.0},
    "Transformer": {"net_arch": [], "context_length": 32},
}
EXPLORING = {"n_steps": 32, "ent_coef": 0.05}
TASKS = (
    Task("RepeatFirst-v0", 40_000, 100_000, range(20, 25), 0.99, {}, {REINFORCE: EXPLORING}, LONG),
    Task(
        "TMaze-v0",
        100_000,
        300_000,
        range(35, 40),
        0.99,
        {},
        # Without entropy VanillaPG is sure of one step too many before it has learned to leave it out
        {REINFORCE: EXPLORING | {"learning_rate": 0.002}, VanillaPG: {"ent_coef": 0.02}},
        LONG,
    ),
    Task(
        "CartPoleNoVelocity-v0",
        200_000,
        400_000,
        range(50, 55),
        0.95,
        {"normalize": True},
        {
            REINFORCE: {
                "n_steps": 64,
                "learning_rate": "lin_0.001",
                "gamma": 1.0,
                "baseline": "value",
                "normalize_advantage": True,
                "ent_coef": 0.01,
            },
            (REINFORCE, "LSTM"): {"n_steps": 256, "learning_rate": "lin_0.003"},
            # Plain steps: natural ones differentiate twice through 500 steps of an LSTM, twice as slow
            VanillaPG: {"n_steps": 64, "learning_rate": "lin_0.002"},
            OffPolicyISPG: {"learning_rate": "lin_0.001"},
        },
        {"LSTM": {"net_arch": []}, "Transformer": {"net_arch": [], "context_length": 8}},
        "CartPoleNoVel-v1",
    ),
)
ALGORITHMS: tuple[type[BaseAlgorithm], ...] = (REINFORCE, VanillaPG, OffPolicyISPG)


def contenders(task: Task) -> dict[str, tuple[Contender, int]]:
    """Label -> every algorithm with every network, and sb3-contrib's RecurrentPPO with the LSTM, and its budget."""
    found: dict[str, tuple[Contender, int]] = {}
    for algorithm, name in product(ALGORITHMS, NETWORKS):
        label = f"{algorithm.__name__}, {name}"
        n_steps = task.n_steps_reinforce if algorithm is REINFORCE else task.n_steps
        found[label] = contender(label, algorithm, **task.settings_of(algorithm, name)), n_steps
    label = "RecurrentPPO, LSTM"
    return found | {label: (Contender(label, "ppo_lstm", recurrent_ppo(task)), task.n_steps)}


def recurrent_ppo(task: Task) -> dict[str, Any]:
    """Settings of sb3-contrib's: the Zoo's, where it has tuned them for the task, else as of ours."""
    if task.zoo_id is not None:
        section = read_configs(Path(there(rl_zoo3.__file__)).parent / "hyperparams/ppo_lstm.yml")[task.zoo_id]
        return {name: value for name, value in section.items() if name != "n_timesteps"}
    lstm = task.network("LSTM")
    theirs = {name: value for name, value in lstm["policy_kwargs"].items() if name != "forget_bias"}
    return lstm | {"policy_kwargs": theirs} | task.settings


def records_of(task: Task) -> list[Record]:
    """All runs of a task."""
    return [
        record
        for one, n_steps in contenders(task).values()  # each apart, as its runs are those of its own code
        for record in trained(FOLDER, [one], task.module_id, task.seeds, n_steps, n_eval_episodes=50)
    ]


def table(task: Task, records: Sequence[Record]) -> str:
    """A line for each contender."""
    lines = [
        "| | environment steps | seeds that reach the optimum | final score, median | lowest |",
        "|---|---|---|---|---|",
    ]
    for label, (_, n_steps) in contenders(task).items():
        own = [record for record in records if record.algorithm == label]
        scores = np.array([np.mean(there(record.evaluations).returns[-1]) for record in own])
        reached = f"{int((scores >= task.solved * task.optimum).sum())} of {len(own)}"
        cells = [label, f"{n_steps:,}", reached, f"{np.median(scores):.2f}", f"{scores.min():.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def page(found: dict[Task, list[Record]]) -> str:
    """A section for each task."""
    sections = "\n\n".join(
        f"## {task.env_id}\n\nSeeds {task.seeds[0]} to {task.seeds[-1]}. The optimum is {task.optimum:g}; a final "
        f"score of {task.solved * task.optimum:g} counts as reaching it.\n\n{table(task, records)}"
        for task, records in found.items()
    )
    return f"""# Tasks that need a memory

Made by `python -m benchmarks.memory`. 8 environments, seeds by which nothing was chosen; defaults but for what
`benchmarks/memory.py` says: LSTMs of 64 units, Transformers of one block with 32 numbers a step. A score is the mean
return of 50 episodes of the deterministic policy after the last update. `RepeatFirst` asks after ten steps for the
first observation, `TMaze` at the end of a corridor for the sign at its beginning (`benchmarks/memory_tasks.py`);
CartPole's velocities are hidden. Where our LSTMs begin with a `forget_bias` of 3, RecurrentPPO's does not, which has no
such argument; on CartPole it has the RL Zoo's own configuration of `CartPoleNoVel-v1`, elsewhere its defaults, and
nothing was tuned for it here.

{sections}
"""


def main() -> int:
    """Train what is missing; write the page, with a section more after each task."""
    stamp, found = Stamp.now(PAGE), dict[Task, list[Record]]()
    for task in TASKS:
        with kept(FOLDER, ARCHIVE):
            found[task] = records_of(task)
        publish(page(found), PAGE, stamp)
    return 0


if __name__ == "__main__":
    sys.exit(main())
