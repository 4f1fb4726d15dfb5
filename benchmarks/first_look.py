"""A first look at what a scaled step, a dense critic and reuse make of learning: ``python -m benchmarks.first_look``.

Every line of the table changes what its name says and nothing else. The seeds are for tuning: no other result uses
them, and the table chooses nothing by itself. Interrupted, it goes on where it stopped. The table goes to
``docs/results/first_look.md``; the extra ``envs`` has what it needs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.provenance import Stamp, publish
from benchmarks.runs import contender, trained
from sb3_pg import OffPolicyISPG, VanillaPG
from sb3_pg.compare.grid import Contender
from sb3_pg.compare.records import Record
from sb3_pg.compare.scores import scores_of

FOLDER, TABLE = Path("runs/first_look"), Path("docs/results/first_look.md")
SEEDS, N_STEPS, N_ENVS = (101, 102, 103), 300_000, 4
#: Environments, with the discount that the RL Zoo's PPO has there.
GAMMA = {"Pendulum-v1": 0.9, "LunarLander-v3": 0.999, "Hopper-v5": 0.99, "HalfCheetah-v5": 0.99}

#: One step on every 256 rows, or one scaled to a KL of 0.01 on every 2,048.
PLAIN: dict[str, Any] = {"n_steps": 64, "learning_rate": 1e-3, "gae_lambda": 0.95, "normalize_advantage": True}
NATURAL: dict[str, Any] = PLAIN | {
    "n_steps": 512,
    "learning_rate": None,
    "natural_gradient": True,
    "target_kl": 0.01,
    "max_grad_norm": None,
}
#: The critic's passes over the batch, each one step or one step on every 64 or 128 rows.
FULL: dict[str, Any] = {"value_learning_rate": 1e-3, "n_value_updates": 20}
DENSE: dict[str, Any] = FULL | {"value_batch_size": 64, "n_value_updates": 5}
DENSE_NATURAL: dict[str, Any] = FULL | {"value_batch_size": 128}
#: Batches of 512 rows, alone or with the three before them.
SEVERAL_STEPS: dict[str, Any] = {
    "n_steps": 128,
    "batch_size": 256,
    "n_epochs": 10,
    "learning_rate": 3e-4,
    "gae_lambda": 0.95,
    "normalize_advantage": True,
    "target_kl": 0.02,
    "max_weight": 10.0,
    "value_learning_rate": 1e-3,
    "n_value_updates": 10,
    "value_batch_size": 256,
}
REUSE: dict[str, Any] = SEVERAL_STEPS | {"n_reused_batches": 3}
VARIANTS: dict[str, tuple[type[VanillaPG | OffPolicyISPG], dict[str, Any]]] = {
    "VanillaPG": (VanillaPG, PLAIN | FULL),
    "VanillaPG, critic in minibatches": (VanillaPG, PLAIN | DENSE),
    "VanillaPG, natural, KL 0.01": (VanillaPG, NATURAL | FULL),
    "VanillaPG, natural, KL 0.01, critic in minibatches": (VanillaPG, NATURAL | DENSE_NATURAL),
    "OffPolicyISPG": (OffPolicyISPG, SEVERAL_STEPS),
    "OffPolicyISPG, 3 batches again as they were": (OffPolicyISPG, REUSE),
    "OffPolicyISPG, 3 batches again by V-trace": (OffPolicyISPG, REUSE | {"reused_advantages": "vtrace"}),
}


def variants(env_id: str) -> list[Contender]:
    """Every variant, with the discount of the environment."""
    return [
        contender(label, algorithm, normalize=True, gamma=GAMMA[env_id], **own)
        for label, (algorithm, own) in VARIANTS.items()
    ]


def all_records() -> list[Record]:
    """Every variant with every seed, one environment after the other."""
    return [
        record
        for env_id in GAMMA
        for record in trained(
            FOLDER,
            variants(env_id),
            env_id,
            SEEDS,
            N_STEPS,
            n_envs=N_ENVS,
            eval_every=N_STEPS,
            n_eval_episodes=20,
        )
    ]


def table(records: Sequence[Record]) -> str:
    """A line a variant: its final score on each environment, the mean over the seeds and their range."""
    lines = ["| | " + " | ".join(GAMMA) + " |", "|---" * (len(GAMMA) + 1) + "|"]
    scores = scores_of(records, "final")
    for label in VARIANTS:
        final = [scores.of(label, env_id) for env_id in GAMMA]
        cells = [f"{one.mean():,.0f} ({one.min():,.0f} to {one.max():,.0f})" for one in final]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    """Train what is missing, print and write the table."""
    stamp = Stamp.now(TABLE)
    text = (
        "# A first look: scaled steps, a dense critic, reuse\n\nMade by `python -m benchmarks.first_look`. "
        f"{N_STEPS:,} environment steps, seeds {', '.join(map(str, SEEDS))}, which are for tuning;\n{N_ENVS} "
        "environments behind VecNormalize. A cell: mean return of 20 episodes of the deterministic policy after the "
        "last\nstep, the same episodes for all: the mean over the seeds and their range. Nothing was tuned for it: one "
        "setting for all\nfour tasks but for gamma (`benchmarks/first_look.py`), three seeds, no interval. It says "
        "where to look,\nnot who is better.\n\n" + table(all_records()) + "\n"
    )
    publish(text, TABLE, stamp)
    return 0


if __name__ == "__main__":
    sys.exit(main())
