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

from benchmarks.passages import passages, table
from benchmarks.provenance import Stamp, publish
from benchmarks.runs import contender, shipped, trained
from sb3_pg import REINFORCE, OffPolicyISPG
from sb3_pg.compare.records import Record

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


def table_of(records: Sequence[Record]) -> str:
    """A line a contender, relative to REINFORCE."""
    found = passages(records, [one.label for one in CONTENDERS], SOLVED)
    return table("batches of 2,048 steps", found, SOLVED, YARDSTICK.label)


def main() -> int:
    """Train what is missing, print and write the table."""
    stamp = Stamp.now(TABLE)
    text = (
        "# What several gradient steps on a batch save\n\nMade by `python -m benchmarks.samples`. "
        f"{ENV_ID}, {len(SEEDS)} seeds, 8 environments with n_steps=256. REINFORCE takes one\ngradient step on each "
        "batch. The same estimator: reward-to-go, leave-one-out baseline, gamma=1.0, no critic. Reached: an\n"
        f"evaluation of the deterministic policy, 10 episodes every 2,000 steps, gives {SOLVED:.0f} or more; a seed "
        f"that does\nnot within {N_STEPS:,} steps counts as having needed them. Settings: `benchmarks/samples.py`.\n\n"
        + table_of(trained(FOLDER, CONTENDERS, ENV_ID, SEEDS, N_STEPS, eval_every=2_000))
        + "\n"
    )
    publish(text, TABLE, stamp)
    return 0


if __name__ == "__main__":
    sys.exit(main())
