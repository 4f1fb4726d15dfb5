"""What the three trust regions of OffPolicyISPG make of a learning rate that is far too large.

``python -m benchmarks.trust_regions`` trains on CartPole-v1 for 500 updates a rule and seed, writes
``docs/results/trust_regions.md`` and draws ``docs/figures/trust_regions.png``. Takes a few minutes.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch as th
from matplotlib import pyplot as plt
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from benchmarks.provenance import Stamp, publish
from sb3_pg import OffPolicyISPG

ENV_ID, N_ENVS, N_UPDATES, SEEDS = "CartPole-v1", 8, 500, (0, 1, 2)
TARGET_KL = 0.02
#: Ten steps of Adam on 128 rows, each thirty times as long as the default's.
COMMON: dict[str, Any] = {"n_steps": 16, "learning_rate": 0.03, "n_epochs": 10, "normalize_advantage": True}
RULES: dict[str, dict[str, Any]] = {
    "no bound": {"target_kl": None},
    "stop": {"target_kl": TARGET_KL, "kl_constraint": "stop"},
    "penalty": {"target_kl": TARGET_KL, "kl_constraint": "penalty"},
    "backtrack": {"target_kl": TARGET_KL, "kl_constraint": "backtrack"},
}
TABLE, FIGURE = Path("docs/results/trust_regions.md"), Path("docs/figures/trust_regions.png")


class KLs(BaseCallback):
    """Notes KL(old || new) after each update, and the return of the episodes that ended."""

    def __init__(self) -> None:
        super().__init__()
        self.kls: list[float] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        logged = self.model.logger.name_to_value
        if "train/approx_kl" in logged:
            self.kls.append(logged["train/approx_kl"])


@dataclass(frozen=True)
class Outcome:
    """KL after each update, and the mean return of the last 100 training episodes."""

    kls: np.ndarray
    score: float


def train(rule: str, seed: int) -> Outcome:
    """One rule, one seed."""
    env = make_vec_env(ENV_ID, N_ENVS, seed=seed)
    model = OffPolicyISPG("MlpPolicy", env, seed=seed, device="cpu", **COMMON | RULES[rule])
    callback = KLs()
    # One rollout more: a callback sees an update when the next rollout begins
    model.learn((N_UPDATES + 1) * N_ENVS * COMMON["n_steps"], callback=callback, log_interval=None)
    return Outcome(np.array(callback.kls), float(np.mean([episode["r"] for episode in model.ep_info_buffer or ()])))


def table(outcomes: dict[str, list[Outcome]]) -> str:
    """One line a rule, over all updates of all seeds."""
    lines = ["| rule | updates | KL above the bound | median KL | largest KL | last 100 episodes |", "|---" * 6 + "|"]
    for rule, own in outcomes.items():
        kls = np.concatenate([one.kls for one in own])
        above, scores = np.mean(kls > TARGET_KL), ", ".join(f"{one.score:.0f}" for one in own)
        lines.append(f"| {rule} | {len(kls):,} | {above:.1%} | {np.median(kls):.4f} | {kls.max():.4g} | {scores} |")
    return "\n".join(lines)


def draw(outcomes: dict[str, list[Outcome]], path: Path) -> None:
    """The KL after each update of the first seed."""
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for rule, own in outcomes.items():
        axes.plot(np.maximum(own[0].kls, 1e-6), ".", markersize=3, label=rule)
    axes.axhline(TARGET_KL, color="grey", linewidth=1, linestyle="--", label=f"target_kl = {TARGET_KL}")
    axes.set(
        title=f"{ENV_ID}, learning rate {COMMON['learning_rate']}: how far each update went",
        xlabel="update",
        ylabel="KL(old || new) after it",
        yscale="log",
        xlim=(0, N_UPDATES),
    )
    axes.legend(loc="lower right", markerscale=4)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> int:
    """Train, print, write, draw."""
    matplotlib.use("Agg")
    th.set_num_threads(1)
    stamp = Stamp.now(TABLE)
    outcomes = {rule: [train(rule, seed) for seed in SEEDS] for rule in RULES}
    settings = ", ".join(f"{name}={value}" for name, value in COMMON.items())
    text = (
        "# Three trust regions and a learning rate that is far too large\n\nMade by `python -m "
        f"benchmarks.trust_regions`. {ENV_ID}, {N_ENVS} environments,\n{settings}, target_kl={TARGET_KL};\n{N_UPDATES} "
        f"updates, seeds {', '.join(map(str, SEEDS))}. KL is KL(old || new) in closed form, over the states of the\n"
        "rollout, after the whole update. `stop` looks before each step, so that the last one goes past the bound;\n"
        "`penalty` learns its coefficient only from the update before; `backtrack` holds the bound every time.\n\n"
        + table(outcomes)
        + "\n\n![KL after each update](../figures/trust_regions.png)\n"
    )
    publish(text, TABLE, stamp)
    draw(outcomes, FIGURE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
