"""How reliably the shipped settings learn: ``python -m benchmarks.learning``.

Ten seeds a setting, none of them used to choose it. Interrupted, it goes on where it stopped: a finished run is kept.
The table goes to ``docs/results/learning.md``.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median

from tqdm import tqdm

from benchmarks.runs import Contender, Result, Run, train_all
from benchmarks.settings import CARTPOLE
from sb3_pg import REINFORCE

SEEDS = range(10)
N_WORKERS = 2
FOLDER = Path("runs/learning")
TABLE = Path("docs/results/learning.md")
SOLVED = 490.0

#: Setting, environment, environment steps.
SETTINGS = (
    (Contender("REINFORCE, defaults", REINFORCE, n_envs=1), "CartPole-v1", 200_000),
    (Contender("REINFORCE, 8 environments", REINFORCE, CARTPOLE), "CartPole-v1", 200_000),
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


def finished(run: Run) -> Result | None:
    """The result of a run that has finished before; what is left of one that has not is removed."""
    result = Result.load(run.folder)
    if result is not None and result.final_score is not None:
        return result
    shutil.rmtree(run.folder, ignore_errors=True)
    return None


def table(results: Sequence[Result]) -> str:
    """A line a setting."""
    lines = [
        f"| setting | seeds that reach {SOLVED:.0f} | median steps to it | slowest | final score, median | lowest |",
        "|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(result.name for result in results):
        own = [result for result in results if result.name == name]
        solved = [result.train_target_steps for result in own if result.train_target_steps is not None]
        final = [result.final_score for result in own if result.final_score is not None]
        steps = f"{median(solved):,.0f} | {max(solved):,}" if solved else "- | -"
        lines.append(
            f"| {name} | {len(solved)} of {len(own)} | {steps} | {median(final):.1f} (mean {mean(final):.1f}) | "
            f"{min(final):.1f} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Train what is missing, print and write the table."""
    runs = planned_runs()
    results = {run.folder: result for run in runs if (result := finished(run)) is not None}
    missing = [run for run in runs if run.folder not in results]
    with tqdm(total=sum(run.n_steps for run in missing), unit=" steps", unit_scale=True, desc="training") as bar:
        results |= dict(zip((run.folder for run in missing), train_all(missing, N_WORKERS, bar.update), strict=True))
    text = (
        "# How reliably REINFORCE learns\n\nMade by `python -m benchmarks.learning`. CartPole-v1, 200,000 environment "
        f"steps, {len(SEEDS)} seeds. Reached: the mean\nreturn of the last 100 training episodes, of the stochastic "
        f"policy, is {SOLVED:.0f} or more. Final score: mean return of 100\nepisodes of the deterministic policy "
        "after the last step, whatever came before.\n\n" + table([results[run.folder] for run in runs]) + "\n"
    )
    TABLE.parent.mkdir(parents=True, exist_ok=True)
    TABLE.write_text(text)
    print(f"\n{text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
