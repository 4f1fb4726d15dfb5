"""Our three algorithms, A2C, PPO and TRPO on the five tasks of classic control: ``python -m benchmarks.classic``.

All of them with their configurations in the RL Zoo or in ``zoo_configs/``, at an equal budget, on seeds that nothing
was chosen by. 300 runs, 99 minutes on two cores beside other programs; interrupted, it goes on where it stopped. The
page is ``docs/results/classic.md``, and the report ``docs/results/classic/report.html``.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.provenance import Stamp, publish
from sb3_pg.compare import Comparison, compare
from sb3_pg.compare.verdict import unsupported, verdict

PAGE, REPORT, FOLDER = Path("docs/results/classic.md"), Path("docs/results/classic"), Path("runs/classic")
#: What is kept of the report's files: it draws all figures itself.
KEPT = ("report.html", "scores.csv", "figures/curves_steps.png", "figures/aggregates.png")
ALGORITHMS = ("reinforce", "vanillapg", "offpolicyispg", "a2c", "ppo", "trpo")
ENV_IDS = ("CartPole-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1")
STEPS, SEEDS = 100_000, range(10, 20)
COMMAND = (
    f"sb3-pg compare --algos {','.join(ALGORITHMS)} --envs {','.join(ENV_IDS)} --steps {STEPS} "
    f"--seeds {SEEDS[0]}-{SEEDS[-1]} --jobs 2 --out {FOLDER}"
)


def table(found: Comparison) -> str:
    """Final scores: a line an algorithm."""
    lines = ["| final score | " + " | ".join(ENV_IDS) + " |", "|---" * (len(ENV_IDS) + 1) + "|"]
    for algorithm in ALGORITHMS:
        own = {task.env_id: task.final for task in found.analysis.tasks if task.algorithm == algorithm}
        cells = [f"{own[e].estimate:,.1f} ({own[e].low:,.1f} to {own[e].high:,.1f})" for e in ENV_IDS]
        lines.append(f"| {algorithm} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def page(found: Comparison) -> str:
    """The verdict, the scores and where the rest is."""
    commits = ", ".join(sorted({str(record.facts["commit"])[:7] for record in found.records}))
    first, *others = verdict(found.analysis)
    return f"""# Six algorithms on classic control

Made by `python -m benchmarks.classic`, which is

```sh
{COMMAND}
```

{STEPS:,} environment steps, {len(SEEDS)} seeds that no setting was chosen by, the configurations of the RL Zoo and of
`zoo_configs/`; the runs were trained at commit {commits}. A2C and PPO are SB3's, TRPO is sb3-contrib's.

{first}

{_bullets(others)}

In brackets: the probability that a run scores higher than one of the other algorithm on the same environment, with an
interval that is corrected for the number of pairs.

{table(found)}

Mean return of 10 episodes of the deterministic policy after the last update, over the seeds, with its 95% interval.

![Learning curves](classic/figures/curves_steps.png)

![Scores over all environments](classic/figures/aggregates.png)

The whole report, with diagnostics and the audit, is [classic/report.html](classic/report.html), one file to open in a
browser; the scores are in [classic/scores.csv](classic/scores.csv). Other programs ran on the machine meanwhile: the
seconds in the report say little.

## What this does not support

{_bullets(unsupported(found.analysis, found.audit.warnings))}
"""


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def main() -> int:
    """Train what is missing; write the report and the page."""
    stamp = Stamp.now(PAGE)
    found = compare(",".join(ALGORITHMS), ENV_IDS, list(SEEDS), FOLDER, STEPS, jobs=2)
    written = found.write(FOLDER / "report", "Six algorithms on classic control", COMMAND).parent
    (REPORT / "figures").mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        shutil.copyfile(written / name, REPORT / name)
    publish(page(found), PAGE, stamp)
    return 0


if __name__ == "__main__":
    sys.exit(main())
