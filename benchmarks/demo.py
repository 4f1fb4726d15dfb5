"""Our three algorithms beside Stable-Baselines3's A2C and PPO on CartPole-v1: ``python -m benchmarks.demo``.

Each contender trains from the same seeds for the same number of environment steps. The demo prints a table, draws the
learning curves into ``runs/demo/learning_curves.png`` and saves the models.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.utils import LinearSchedule
from tqdm import tqdm

from benchmarks.runs import Contender, Result, Run, shipped, train_all
from sb3_pg import REINFORCE, OffPolicyISPG, VanillaPG

#: A2C and PPO have the settings that the RL Zoo tuned for this environment, REINFORCE those of zoo_configs/,
#: VanillaPG and OffPolicyISPG their defaults, which were chosen on it.
CONTENDERS = (
    shipped("REINFORCE", REINFORCE, "CartPole-v1"),
    Contender("VanillaPG", VanillaPG),
    Contender("OffPolicyISPG", OffPolicyISPG),
    Contender("A2C", A2C, {"ent_coef": 0.0}),
    Contender(
        "PPO",
        PPO,
        {
            "n_steps": 32,
            "batch_size": 256,
            "gae_lambda": 0.8,
            "gamma": 0.98,
            "n_epochs": 20,
            "ent_coef": 0.0,
            "learning_rate": LinearSchedule(0.001, 0.0, 1.0),
            "clip_range": LinearSchedule(0.2, 0.0, 1.0),
        },
    ),
)
ENV_ID = "CartPole-v1"
SOLVED = 475.0  # Gymnasium's reward threshold
SEEDS = (0, 1, 2)
N_STEPS = 100_000
N_WORKERS = 2
FOLDER = Path("runs/demo")


def planned_runs() -> list[Run]:
    """Every contender with every seed, the last contender first: the longest runs must not be left for the end."""
    return [
        Run(contender, ENV_ID, seed, N_STEPS, FOLDER / f"{contender.name.lower()}_{seed}")
        for contender in reversed(CONTENDERS)
        for seed in SEEDS
    ]


def by_contender(results: Sequence[Result]) -> dict[str, list[Result]]:
    """The results of each contender, in the order of the table above."""
    return {one.name: [result for result in results if result.name == one.name] for one in CONTENDERS}


def table(results: Sequence[Result]) -> str:
    """One line a run, and one with the means of each contender."""
    lines = [f"{'':14}{'seed':>6}{'final score':>14}{'last 100':>11}{f'steps to {SOLVED:.0f}':>15}{'training':>11}"]
    for name, own in by_contender(results).items():
        lines.extend(row(name, str(result.seed), [result]) for result in own)
        lines.append(row(name, "mean", own) + "\n")
    return "\n".join(lines)


def row(name: str, label: str, results: Sequence[Result]) -> str:
    """Means over the results, of finished runs."""
    final, train, seconds = (
        mean(getattr(result, key) for result in results) for key in ("final_score", "train_score", "train_seconds")
    )
    solved = [result.steps_to(SOLVED) for result in results]
    steps = "-" if None in solved else f"{mean(step for step in solved if step is not None):,.0f}"
    return f"{name:14}{label:>6}{final:14.1f}{train:11.1f}{steps:>15}{seconds:9.1f} s"


def draw_learning_curves(results: Sequence[Result], path: Path) -> None:
    """The mean over the seeds and the band from the worst to the best, of the evaluations during training."""
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for name, own in by_contender(results).items():
        scores = np.array([result.eval_scores for result in own])
        steps = own[0].eval_steps
        (line,) = axes.plot(steps, scores.mean(axis=0), label=name)
        axes.fill_between(steps, scores.min(axis=0), scores.max(axis=0), alpha=0.15, color=line.get_color())
    axes.axhline(SOLVED, color="grey", linewidth=0.8, linestyle="--", label=f"solved ({SOLVED:.0f})")
    axes.set(
        title=f"{ENV_ID}: deterministic policy, mean and range of {len(SEEDS)} seeds",
        xlabel="environment steps",
        ylabel="mean return of an evaluation",
        xlim=(0, N_STEPS),
        ylim=(0, None),
    )
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> int:
    """Train, print, draw."""
    matplotlib.use("Agg")
    shutil.rmtree(FOLDER, ignore_errors=True)
    runs = planned_runs()
    with tqdm(total=sum(run.n_steps for run in runs), unit=" steps", unit_scale=True, desc="training") as bar:
        try:
            results = train_all(runs, N_WORKERS, bar.update)
        except KeyboardInterrupt:
            bar.close()
            print(f"Stopped. The runs that had finished are in {FOLDER}/.", file=sys.stderr)
            return 130
    curves = FOLDER / "learning_curves.png"
    draw_learning_curves(results, curves)
    print(f"\n{ENV_ID}, {N_STEPS:,} environment steps a run")
    print(f"final score: mean return of {runs[0].n_final_episodes} episodes of the deterministic policy")
    print("last 100: mean return of the last 100 training episodes\n")
    print(table(results))
    print(f"learning curves: {curves}\nmodels: {FOLDER}/<contender>_<seed>/model.zip")
    return 0


if __name__ == "__main__":
    sys.exit(main())
