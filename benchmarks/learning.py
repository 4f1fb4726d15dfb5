"""How reliably the shipped settings learn: ``python -m benchmarks.learning``.

Ten seeds a setting, none of them used to choose it. Interrupted, it goes on where it stopped: a finished run is kept.
The table goes to ``docs/results/learning.md``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median

from benchmarks.runs import Contender, Result, Run, publish, resume_all
from benchmarks.settings import CARTPOLE
from sb3_pg import REINFORCE, VanillaPG

SEEDS = range(10)
FOLDER = Path("runs/learning")
TABLE = Path("docs/results/learning.md")
SOLVED = 490.0

#: Setting, environment, environment steps.
SETTINGS = (
    (Contender("REINFORCE, defaults", REINFORCE, n_envs=1), "CartPole-v1", 200_000),
    (Contender("REINFORCE, 8 environments", REINFORCE, CARTPOLE), "CartPole-v1", 200_000),
    (Contender("VanillaPG, defaults, 8 environments", VanillaPG), "CartPole-v1", 100_000),
)


def planned_runs() -> list[Run]:
    """Every setting with every seed."""
    return [
        Run(
            contender,
            env_id,
            seed,
            n_steps,
            FOLDER / f"{contender.name.replace(', ', '_').replace(' ', '_')}_{seed}",
            eval_every=10_000,
            n_final_episodes=100,
            train_target=SOLVED,
        )
        for contender, env_id, n_steps in SETTINGS
        for seed in SEEDS
    ]


def table(results: Sequence[Result]) -> str:
    """A line a setting."""
    lines = [
        f"| setting | environment steps | seeds that reach {SOLVED:.0f} | median steps to it | slowest | "
        "final score, median | lowest |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, budget in ((contender.name, n_steps) for contender, _, n_steps in SETTINGS):
        own = [result for result in results if result.name == name]
        solved = [result.train_target_steps for result in own if result.train_target_steps is not None]
        final = [result.final_score for result in own if result.final_score is not None]
        steps = f"{median(solved):,.0f} | {max(solved):,}" if solved else "- | -"
        lines.append(
            f"| {name} | {budget:,} | {len(solved)} of {len(own)} | {steps} | "
            f"{median(final):.1f} (mean {mean(final):.1f}) | {min(final):.1f} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Train what is missing, print and write the table."""
    results = resume_all(planned_runs())
    text = (
        "# How reliably the algorithms learn\n\nMade by `python -m benchmarks.learning`. CartPole-v1, "
        f"{len(SEEDS)} seeds. Reached: the mean\nreturn of the last 100 training episodes, of the stochastic "
        f"policy, is {SOLVED:.0f} or more. Final score: mean return of 100\nepisodes of the deterministic policy "
        "after the last step, whatever came before.\n\n" + table(results) + "\n"
    )
    publish(text, TABLE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
