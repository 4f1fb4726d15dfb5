"""What using past batches again saves in environment steps: ``python -m benchmarks.reuse`` (needs the extra ``envs``).

OffPolicyISPG's defaults, the same with three past batches used again, and the same without them but with as many
gradient steps. Ten seeds that no setting was chosen by; interrupted, it goes on where it stopped, in another checkout
too, if ``docs/results/reuse.tar.xz`` is committed. The tables go to ``docs/results/reuse.md``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.passages import passages, table
from benchmarks.provenance import Stamp, publish
from benchmarks.runs import contender, kept, trained
from sb3_pg import OffPolicyISPG
from sb3_pg.compare.records import Record

#: What counts as solved: Gymnasium's own thresholds, and for Pendulum, which has none, a pole that stays up.
TARGETS = {
    "Pendulum-v1": -200.0,
    "InvertedDoublePendulum-v4": 9_100.0,
    "InvertedPendulum-v4": 950.0,
    "Acrobot-v1": -100.0,
    "CartPole-v1": 475.0,
}
SEEDS = range(10)
#: 50 batches of 2,048: nobody plays beyond the budget.
STEPS, EVERY = 102_400, 4_096
FOLDER, ARCHIVE, TABLE = Path("runs/reuse"), Path("docs/results/reuse.tar.xz"), Path("docs/results/reuse.md")
DEFAULTS = contender("the defaults", OffPolicyISPG)
#: An update after 512 steps instead of 2,048, either way. Chosen on seeds 101 and 102.
AS_MANY_STEPS = contender("as many gradient steps, no reuse", OffPolicyISPG, n_steps=64, n_epochs=40)
REUSE = contender("three batches reused", OffPolicyISPG, n_steps=64, n_reused_batches=3, reused_advantages="vtrace")
CONTENDERS = (DEFAULTS, AS_MANY_STEPS, REUSE)


def section(env_id: str, records: Sequence[Record]) -> str:
    """A task: a line a contender."""
    target = TARGETS[env_id]
    found = passages(records, [one.label for one in CONTENDERS], target)
    return table(env_id, found, target, DEFAULTS.label, AS_MANY_STEPS.label)


def main() -> int:
    """Train what is missing; write a table more into the page after each task."""
    stamp, sections = Stamp.now(TABLE), list[str]()
    for env_id in TARGETS:
        with kept(FOLDER, ARCHIVE):
            records = trained(FOLDER, CONTENDERS, env_id, SEEDS, STEPS, eval_every=EVERY, n_eval_episodes=5)
        sections.append(section(env_id, records))
        publish(page(sections), TABLE, stamp)
    return 0


def page(sections: Sequence[str]) -> str:
    """How it was measured, and all tables."""
    return f"""# What using past batches again saves

Made by `python -m benchmarks.reuse`: OffPolicyISPG with 8 environments, seeds {SEEDS[0]} to {SEEDS[-1]}, by which
nothing was chosen. The defaults take ten passes over every 2,048 steps. The other two update after 512 steps: one takes
40 passes over them, the other ten over them and the three batches before (`n_reused_batches=3`,
`reused_advantages="vtrace"`). Both then take as many gradient steps an environment step, four times the defaults'.
Reached: an evaluation of the deterministic policy, 5 episodes every {EVERY:,} steps, gives the target or more; a seed
that does not within {STEPS:,} steps counts as having needed them.

{"".join(f"{one}{chr(10)}{chr(10)}" for one in sections).rstrip()}
"""


if __name__ == "__main__":
    sys.exit(main())
