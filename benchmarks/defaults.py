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
from benchmarks.runs import contender, there, trained
from sb3_pg import REINFORCE
from sb3_pg.compare.records import Record
from sb3_pg.compare.scores import WINDOW, scores_of
from sb3_pg.statistics import area_under_curve, running_mean

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


def all_records() -> list[Record]:
    """Every variant on every environment with every seed; the slow environment last."""
    variants = [contender(variant, REINFORCE, **COMMON | own) for variant, own in VARIANTS.items()]
    return [
        record
        for env_id, (n_steps, seeds) in ENVIRONMENTS.items()
        # Only training episodes count here
        for record in trained(FOLDER, variants, env_id, seeds, n_steps, eval_every=n_steps, n_eval_episodes=1)
    ]


def training_mean(record: Record) -> float:
    """Mean over the environment steps of the running mean of 100 training episodes."""
    episodes = there(record.episodes)
    return area_under_curve(episodes.steps, running_mean(episodes.returns, WINDOW))


def table(records: Sequence[Record]) -> str:
    """A line a variant: the score of all training episodes, and of the last 100, on each environment."""
    lines = ["| variant | " + " | ".join(ENVIRONMENTS) + " |", "|---" * (len(ENVIRONMENTS) + 1) + "|"]
    scores = scores_of(records, "training")
    for variant in VARIANTS:
        cells = []
        for env_id in ENVIRONMENTS:
            own = [record for record in records if (record.algorithm, record.env_id) == (variant, env_id)]
            overall, final = mean(map(training_mean, own)), scores.of(variant, env_id)
            cells.append(f"{overall:.0f} ({final.min():.0f} to {final.max():.0f})")
        lines.append(f"| `{variant}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    """Train what is missing, print and write the table."""
    stamp = Stamp.now(TABLE)
    budgets = [f"{env} {n:,} steps, seeds {', '.join(map(str, seeds))}" for env, (n, seeds) in ENVIRONMENTS.items()]
    text = (
        "# How REINFORCE's defaults were chosen\n\nMade by `python -m benchmarks.defaults`: each line changes one "
        "argument. 8 environments, `n_steps=256`;\n" + ";\n".join(budgets) + ".\nA cell: the running mean of 100 "
        "training episodes, averaged over the steps, and in brackets\nthe range over the seeds of its last value.\n\n"
        + table(all_records())
        + "\n"
    )
    publish(text, TABLE, stamp)
    return 0


if __name__ == "__main__":
    sys.exit(main())
