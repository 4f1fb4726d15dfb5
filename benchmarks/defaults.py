"""How REINFORCE's defaults were chosen: ``python -m benchmarks.defaults`` (the extra ``envs`` has LunarLander).

Each line changes one argument of the defaults. The seeds are not those of any other result. Interrupted, it goes on
where it stopped; the table goes to ``docs/results/defaults.md``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.provenance import Stamp, publish
from benchmarks.runs import Contender, Result, Run, resume_all
from sb3_pg import REINFORCE

FOLDER = Path("runs/defaults")
TABLE = Path("docs/results/defaults.md")

#: Environment: its steps and its seeds.
ENVIRONMENTS: dict[str, tuple[int, Sequence[int]]] = {
    "CartPole-v1": (150_000, (101, 102, 103)),
    "Pendulum-v1": (300_000, (101, 102, 103)),
    "LunarLander-v3": (200_000, (101,)),
}
#: What is not a default in any line: 2,048 steps an iteration, in 8 environments.
COMMON: dict[str, Any] = {"n_steps": 256}
VARIANTS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "learning_rate=0.005": {"learning_rate": 0.005},
    "gamma=1.0": {"gamma": 1.0},
    "baseline='batch_mean'": {"baseline": "batch_mean"},
    "baseline='time_mean'": {"baseline": "time_mean"},
    "loss_reduction='step'": {"loss_reduction": "step"},
    "normalize_advantage=True": {"normalize_advantage": True},
}


def planned_runs() -> list[Run]:
    """Every variant on every environment with every seed; the slow environment last."""
    return [
        Run(
            Contender(variant, REINFORCE, COMMON | own),
            env_id,
            seed,
            n_steps,
            FOLDER / f"{env_id}_{index}_{seed}",
            eval_every=n_steps,
        )
        for env_id, (n_steps, seeds) in ENVIRONMENTS.items()
        for seed in seeds
        for index, (variant, own) in enumerate(VARIANTS.items())
    ]


def table(runs: Sequence[Run], results: Sequence[Result]) -> str:
    """A line a variant: the score of all training episodes, and of the last 100, on each environment."""
    lines = ["| variant | " + " | ".join(ENVIRONMENTS) + " |", "|---" * (len(ENVIRONMENTS) + 1) + "|"]
    for variant in VARIANTS:
        cells = []
        for env_id in ENVIRONMENTS:
            both = zip(runs, results, strict=True)
            own = [result for run, result in both if (run.env_id, result.name) == (env_id, variant)]
            overall = mean(result.train_mean for result in own if result.train_mean is not None)
            final = [result.train_score for result in own if result.train_score is not None]
            cells.append(f"{overall:.0f} ({min(final):.0f} to {max(final):.0f})")
        lines.append(f"| `{variant}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    """Train what is missing, print and write the table."""
    stamp, runs = Stamp.now(TABLE), planned_runs()
    budgets = [f"{env} {n:,} steps, seeds {', '.join(map(str, seeds))}" for env, (n, seeds) in ENVIRONMENTS.items()]
    text = (
        "# How REINFORCE's defaults were chosen\n\nMade by `python -m benchmarks.defaults`: each line changes one "
        "argument. 8 environments, `n_steps=256`;\n" + ";\n".join(budgets) + ".\nA cell: the mean return over the time "
        "of the training, and in brackets the range over the seeds of the last 100\ntraining episodes' mean.\n\n"
        + table(runs, resume_all(runs))
        + "\n"
    )
    publish(text, TABLE, stamp)
    return 0


if __name__ == "__main__":
    sys.exit(main())
