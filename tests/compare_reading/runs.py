"""Runs as other people's programs leave them, in a second or two."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecEnv

ZOO = """
import sys
from rl_zoo3.train import train
for line in {lines!r}:
    sys.argv = ["train.py", *line]
    train()
"""


def run_zoo(folder: Path, *lines: Sequence[str]) -> None:
    """Call the Zoo's own train script, once for each line, in a process of its own that knows nothing of sb3_pg."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    script = ZOO.format(lines=[list(line) for line in lines])
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=900
    )
    assert result.returncode == 0, result.stdout + result.stderr


class Truth(BaseCallback):
    """Notes the steps of the run at each episode's end, and its return."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[tuple[int, float]] = []

    def _on_step(self) -> bool:
        infos = self.locals["infos"]
        self.ends += [(self.num_timesteps, float(info["episode"]["r"])) for info in infos if "episode" in info]
        return True


def learn(
    algorithm: type[BaseAlgorithm],
    folder: Path,
    env: VecEnv | None = None,
    formats: Sequence[str] = ("csv",),
    eval_freq: int = 50,
    n_steps: int = 256,
    **arguments: Any,
) -> list[tuple[int, float]]:
    """A script as in SB3's documentation: Monitor, EvalCallback, a logger, ``model.zip``.

    :param eval_freq: vector steps between evaluations; 0 for none
    :return: steps and returns of the training episodes, in the order in which they ended
    """
    env = env or make_vec_env("CartPole-v1", n_envs=2, monitor_dir=str(folder))
    model = algorithm("MlpPolicy", env, n_steps=16, policy_kwargs={"net_arch": [8]}, **arguments)  # type: ignore[call-arg]
    if formats:
        model.set_logger(configure(str(folder), list(formats)))
    truth = Truth()
    callbacks: list[BaseCallback] = [truth]
    if eval_freq:
        eval_env = make_vec_env("CartPole-v1")
        callbacks.append(
            EvalCallback(eval_env, log_path=str(folder), eval_freq=eval_freq, n_eval_episodes=3, verbose=0)
        )
    model.learn(n_steps, callback=callbacks)
    model.save(folder / "model.zip")
    env.close()
    return truth.ends


def write_evaluations(folder: Path, steps: Sequence[float] = (100, 200), score: float = 1.0) -> None:
    """A small ``evaluations.npz``."""
    folder.mkdir(parents=True, exist_ok=True)
    results = np.full((len(steps), 2), score)
    np.savez(folder / "evaluations.npz", timesteps=steps, results=results, ep_lengths=results)


def write_monitor(path: Path, rows: Sequence[tuple[Any, ...]], t_start: float = 0.0, env_id: str = "None") -> Path:
    """A monitor file with given returns, lengths, times."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f'#{{"t_start": {t_start}, "env_id": "{env_id}"}}\n', "r,l,t\r\n"]
    path.write_text("".join(lines + [",".join(map(str, row)) + "\r\n" for row in rows]), newline="")
    return path
