"""How the defaults were chosen: ``python -m benchmarks.defaults`` (the extra ``envs`` has what it needs).

Each line changes one choice of an algorithm's defaults, on tasks of different kinds. The seed is not one of any other
result. Interrupted, it goes on where it stopped, in another checkout too, if ``docs/results/defaults.tar.xz`` is
committed; the tables go to ``docs/results/defaults.md``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.provenance import Stamp, publish
from benchmarks.runs import contender, kept, trained
from sb3_pg import REINFORCE, OffPolicyISPG, VanillaPG
from sb3_pg.common.base_algorithm import PolicyGradientAlgorithm
from sb3_pg.compare.records import Record
from sb3_pg.compare.scores import scores_of

FOLDER, ARCHIVE = Path("runs/defaults"), Path("docs/results/defaults.tar.xz")
TABLE = Path("docs/results/defaults.md")

ENV_IDS = ("CartPole-v1", "Pendulum-v1", "LunarLander-v3", "Hopper-v4")
STEPS, SEEDS, N_ENVS = 300_000, (101,), 8
#: One Adam step on every 512 rows: what a policy gradient with a critic is in most textbooks.
PLAIN: dict[str, Any] = {"natural_gradient": False, "n_steps": 64, "normalize_advantage": True}
VARIANTS: dict[type[PolicyGradientAlgorithm], dict[str, dict[str, Any]]] = {
    VanillaPG: {
        "defaults": {},
        "target_kl=0.01": {"target_kl": 0.01},
        "normalize_value=False": {"normalize_value": False},
        "plain steps": PLAIN,
    },
    OffPolicyISPG: {
        "defaults": {},
        "batch_size=64": {"batch_size": 64},
        "learning_rate=0.001": {"learning_rate": 0.001},
        "normalize_value=False": {"normalize_value": False},
    },
    REINFORCE: {
        "defaults": {},
        "learning_rate=0.015": {"learning_rate": 0.015},
        "normalize_advantage=True": {"normalize_advantage": True},
    },
}


def label(algorithm: type[PolicyGradientAlgorithm], variant: str) -> str:
    """What the runs of a variant are called."""
    return f"{algorithm.__name__} {variant}"


def records_of(algorithm: type[PolicyGradientAlgorithm]) -> list[Record]:
    """Every variant of an algorithm on every environment."""
    variants = [contender(label(algorithm, name), algorithm, **own) for name, own in VARIANTS[algorithm].items()]
    return [
        record
        for env_id in ENV_IDS
        for record in trained(
            FOLDER, variants, env_id, SEEDS, STEPS, n_envs=N_ENVS, eval_every=STEPS // 3, n_eval_episodes=20
        )
    ]


def table(algorithm: type[PolicyGradientAlgorithm], records: Sequence[Record]) -> str:
    """A line a variant: the final score on each environment."""
    lines = [f"| {algorithm.__name__} | " + " | ".join(ENV_IDS) + " |", "|---" * (len(ENV_IDS) + 1) + "|"]
    scores = scores_of(records, "final")
    for variant in VARIANTS[algorithm]:
        final = [scores.of(label(algorithm, variant), env_id).mean() for env_id in ENV_IDS]
        lines.append(f"| {variant} | " + " | ".join(f"{one:,.0f}" for one in final) + " |")
    return "\n".join(lines)


def page(tables: Sequence[str]) -> str:
    """All tables, and how to read them."""
    return (
        "# How the defaults were chosen\n\nMade by `python -m benchmarks.defaults`: each line changes one choice of "
        f"the defaults. {N_ENVS} environments, {STEPS:,}\nsteps, seed {', '.join(map(str, SEEDS))}, which is for "
        "tuning. A cell: mean return of 20 episodes of the deterministic policy\nafter the last update. One seed says "
        "little of a single cell: what counted is a line that fails nowhere.\n\n" + "\n\n".join(tables) + "\n"
    )


def main() -> int:
    """Train what is missing, print and write the tables."""
    stamp = Stamp.now(TABLE)
    with kept(FOLDER, ARCHIVE):
        tables = [table(algorithm, records_of(algorithm)) for algorithm in VARIANTS]
    publish(page(tables), TABLE, stamp)
    return 0


if __name__ == "__main__":
    sys.exit(main())
