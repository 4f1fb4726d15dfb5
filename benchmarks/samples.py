"""How many environment steps several gradient steps on a batch save: ``python -m benchmarks.samples``.

REINFORCE, which takes one step on each batch, against OffPolicyISPG on batches of the same size: with the same returns
and the same baseline, and as it comes, with a critic. Ten seeds that no setting was chosen by; interrupted, it goes on
where it stopped. The table goes to ``docs/results/samples.md``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.provenance import Stamp, publish
from benchmarks.runs import contender, shipped, there, trained
from sb3_pg import REINFORCE, OffPolicyISPG
from sb3_pg.compare.records import Floats, Record
from sb3_pg.statistics import Passage, bootstrap_interval, first_passage, mean

ENV_ID, SEEDS, SOLVED = "CartPole-v1", range(10), 475.0
#: 30 batches, so that nobody plays beyond the budget.
N_STEPS = 30 * 2_048
FOLDER, TABLE = Path("runs/samples"), Path("docs/results/samples.md")
YARDSTICK = shipped("REINFORCE", REINFORCE, ENV_ID)
#: The very estimator of the yardstick, and several steps on each batch. Chosen on seeds 101 to 110.
SAME_ESTIMATOR: dict[str, Any] = {
    **YARDSTICK.overrides,
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
    contender("OffPolicyISPG, the same estimator", OffPolicyISPG, **SAME_ESTIMATOR),
    contender("OffPolicyISPG with its critic, steps on 256 rows", OffPolicyISPG, **MINIBATCHES),
    contender("that, with one batch reused", OffPolicyISPG, **MINIBATCHES, n_reused_batches=1),
)


def passage(record: Record) -> Passage:
    """The first evaluation that reaches the target; the last one, at the end of the budget, where none does."""
    evaluations = there(record.evaluations)
    return first_passage(evaluations.steps, evaluations.scores, SOLVED)


def ratio_of_means(steps: Floats, baseline: Floats) -> Floats:
    """How many steps the mean seed needs, relative to another contender's."""
    return mean(steps) / mean(baseline)


def relative(steps: Floats, baseline: Floats) -> str:
    """The ratio of the mean steps, with its interval: seeds are drawn anew for each of the two."""
    if steps is baseline:
        return "1.00"
    ratio = bootstrap_interval(ratio_of_means, steps[:, None], baseline[:, None])
    return f"{ratio.estimate:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"


def table(records: Sequence[Record]) -> str:
    """A line a contender, relative to the first."""
    lines = [
        f"| batches of 2,048 steps | seeds that reach {SOLVED:.0f} | median steps to it | slowest | "
        "mean steps, relative to REINFORCE (95% interval) |",
        "|---|---|---|---|---|",
    ]
    passages = {
        one.label: [passage(record) for record in records if record.algorithm == one.label] for one in CONTENDERS
    }
    steps = {label: np.array([one.time for one in own]) for label, own in passages.items()}
    for label, own in passages.items():
        reached = f"{sum(one.reached for one in own)} of {len(own)}"
        times = f"{np.median(steps[label]):,.0f} | {steps[label].max():,.0f}"
        lines.append(f"| {label} | {reached} | {times} | {relative(steps[label], steps[YARDSTICK.label])} |")
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
        + table(trained(FOLDER, CONTENDERS, ENV_ID, SEEDS, N_STEPS, eval_every=2_000))
        + "\n"
    )
    publish(text, TABLE, stamp)
    return 0


if __name__ == "__main__":
    sys.exit(main())
