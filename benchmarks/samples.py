"""How many environment steps several gradient steps on a batch save: ``python -m benchmarks.samples``.

REINFORCE, which takes one step on each batch, against OffPolicyISPG on batches of the same size: with the same returns
and the same baseline, and as it comes, with a critic. Ten seeds that no setting was chosen by; interrupted, it goes on
where it stopped. The table goes to ``docs/results/samples.md``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.provenance import Stamp, publish
from benchmarks.runs import Contender, Result, Run, resume_all, shipped
from sb3_pg import REINFORCE, OffPolicyISPG

ENV_ID, SEEDS, N_STEPS, SOLVED = "CartPole-v1", range(10), 60_000, 475.0
FOLDER, TABLE = Path("runs/samples"), Path("docs/results/samples.md")
YARDSTICK = shipped("REINFORCE", REINFORCE, ENV_ID)
#: The very estimator of the yardstick, and several steps on each batch. Chosen on seeds 101 to 110.
SAME_ESTIMATOR: dict[str, Any] = YARDSTICK.settings | {
    "returns": "reward_to_go",
    "baseline": "time_leave_one_out",
    "incomplete_episodes": "carry",
    "bootstrap_truncated": False,
    "n_value_updates": 1,
    "value_learning_rate": None,
    "loss_reduction": "mean_length",
    "max_weight": 10.0,
    "n_epochs": 10,
    "target_kl": 0.02,
}
#: OffPolicyISPG's defaults on batches as large as the yardstick's, in steps on 256 rows.
MINIBATCHES: dict[str, Any] = {
    "n_steps": 256,
    "batch_size": 256,
    "n_epochs": 10,
    "normalize_advantage": True,
    "target_kl": 0.02,
}
CONTENDERS = (
    YARDSTICK,
    Contender("OffPolicyISPG, the same estimator", OffPolicyISPG, SAME_ESTIMATOR),
    Contender("OffPolicyISPG with its critic, steps on 256 rows", OffPolicyISPG, MINIBATCHES),
    Contender("that, with one batch reused", OffPolicyISPG, MINIBATCHES | {"n_reused_batches": 1}),
)
N_RESAMPLES = 100_000


def planned_runs() -> list[Run]:
    """Every contender with every seed."""
    return [
        Run(
            contender,
            ENV_ID,
            seed,
            N_STEPS,
            FOLDER / f"{number}_{seed}",
        )
        for number, contender in enumerate(CONTENDERS)
        for seed in SEEDS
    ]


def steps_of(results: Sequence[Result], name: str) -> np.ndarray:
    """Steps to the target of every seed; where it was not reached, the whole budget (in favour of that contender)."""
    steps = [result.steps_to(SOLVED) or N_STEPS for result in results if result.name == name]
    return np.array(steps, dtype=np.float64)


def interval(steps: np.ndarray, baseline: np.ndarray) -> tuple[float, float]:
    """95% bootstrap interval of the ratio of the mean steps, seeds drawn anew for each of the two."""
    rng = np.random.default_rng(0)
    draws = [rng.choice(values, (N_RESAMPLES, len(values))).mean(axis=1) for values in (steps, baseline)]
    low, high = np.quantile(draws[0] / draws[1], [0.025, 0.975])
    return float(low), float(high)


def table(results: Sequence[Result]) -> str:
    """A line a contender, relative to the first."""
    lines = [
        f"| batches of 2,048 steps | seeds that reach {SOLVED:.0f} | median steps to it | slowest | "
        "mean steps, relative to REINFORCE (95% interval) |",
        "|---|---|---|---|---|",
    ]
    baseline = steps_of(results, CONTENDERS[0].name)
    for contender in CONTENDERS:
        own = steps_of(results, contender.name)
        reached = [one for one in results if one.name == contender.name and one.steps_to(SOLVED) is not None]
        low, high = interval(own, baseline)
        relative = f"{own.mean() / baseline.mean():.2f}"
        relative += "" if contender is CONTENDERS[0] else f" ({low:.2f} to {high:.2f})"
        lines.append(
            f"| {contender.name} | {len(reached)} of {len(own)} | {median(own):,.0f} | {own.max():,.0f} | {relative} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Train what is missing, print and write the table."""
    stamp = Stamp.now(TABLE)
    text = (
        "# What several gradient steps on a batch save\n\nMade by `python -m benchmarks.samples`. "
        f"{ENV_ID}, {len(SEEDS)} seeds, 8 environments with n_steps=256. REINFORCE takes one\ngradient step on each "
        "batch. The same estimator: reward-to-go, leave-one-out baseline, gamma=1.0, no critic. Reached: an\n"
        f"evaluation of the deterministic policy, 10 episodes every 2,000 steps, gives {SOLVED:.0f} or more; a seed "
        f"that does\nnot within {N_STEPS:,} steps counts as having needed them. Settings: `benchmarks/samples.py`.\n\n"
        + table(resume_all(planned_runs()))
        + "\n"
    )
    publish(text, TABLE, stamp)
    return 0


if __name__ == "__main__":
    sys.exit(main())
