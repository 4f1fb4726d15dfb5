"""A first look at what a scaled step, a dense critic and reuse make of learning: ``python -m benchmarks.first_look``.

Every line of the table changes what its name says and nothing else. The seeds are for tuning: no other result uses
them, and the table chooses nothing by itself. Interrupted, it goes on where it stopped; ``--env`` runs some of the
environments first. The table goes to ``docs/results/first_look.md``; the extra ``envs`` has what it needs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.provenance import Stamp, publish
from benchmarks.runs import Contender, Result, Run, resume_all
from sb3_pg import OffPolicyISPG, VanillaPG

FOLDER, TABLE = Path("runs/first_look"), Path("docs/results/first_look.md")
SEEDS, N_STEPS, N_ENVS = (101, 102, 103), 300_000, 4
#: Environments, with the discount that the RL Zoo's PPO has there.
GAMMA = {"Pendulum-v1": 0.9, "LunarLander-v3": 0.999, "Hopper-v5": 0.99, "HalfCheetah-v5": 0.99}
NORMALIZE: dict[str, Any] = {"norm_obs": True, "norm_reward": True}

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


def planned_runs(env_ids: Sequence[str]) -> list[Run]:
    """Every variant with every seed, one environment after the other."""
    return [
        Run(
            Contender(name, algorithm, {"gamma": GAMMA[env_id], **own}, N_ENVS, normalize=NORMALIZE),
            env_id,
            seed,
            N_STEPS,
            FOLDER / f"{env_id}_{number}_{seed}",
            eval_every=N_STEPS,
            n_final_episodes=20,
        )
        for env_id in env_ids
        for seed in SEEDS
        for number, (name, (algorithm, own)) in enumerate(VARIANTS.items())
    ]


def table(runs: Sequence[Run], results: Sequence[Result]) -> str:
    """A line a variant: its final score on each environment, the mean over the seeds and their range."""
    lines = ["| | " + " | ".join(GAMMA) + " |", "|---" * (len(GAMMA) + 1) + "|"]
    for name in VARIANTS:
        cells = []
        for env_id in GAMMA:
            own = [one for run, one in zip(runs, results, strict=True) if (run.env_id, one.name) == (env_id, name)]
            final = [one.final_score for one in own if one.final_score is not None]
            cells.append(f"{mean(final):,.0f} ({min(final):,.0f} to {max(final):,.0f})")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    """Train what is missing; print and write the table when everything is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", action="append", choices=list(GAMMA), help="only these, and no table")
    chosen = parser.parse_args().env
    if chosen:
        resume_all(planned_runs(chosen))
        return 0
    stamp, runs = Stamp.now(TABLE), planned_runs(list(GAMMA))
    text = (
        "# A first look: scaled steps, a dense critic, reuse\n\nMade by `python -m benchmarks.first_look`. "
        f"{N_STEPS:,} environment steps, seeds {', '.join(map(str, SEEDS))}, which are for tuning;\n{N_ENVS} "
        "environments behind VecNormalize. A cell: mean return of 20 episodes of the deterministic policy after the "
        "last\nstep, the mean over the seeds and their range. Nothing was tuned for it: one setting for all four tasks "
        "but for gamma\n(`benchmarks/first_look.py`), three seeds, no interval. It says where to look, not who is "
        "better.\n\n" + table(runs, resume_all(runs)) + "\n"
    )
    publish(text, TABLE, stamp)
    return 0


if __name__ == "__main__":
    sys.exit(main())
