"""Runs that never were, with scores that are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sb3_pg.compare.records import Episodes, Evaluations, Record

MakeRecord = Callable[..., Record]
STEPS = np.array([0.0, 500.0, 1000.0])


def make(algorithm: str, env_id: str, seed: int | None, scores: Sequence[float], **more: Any) -> Record:
    """A run with one-episode evaluations after 0, 500 and 1,000 steps."""
    evaluations = Evaluations(STEPS[: len(scores)], np.array(scores, dtype=np.float64)[:, None], deterministic=True)
    arguments: dict[str, Any] = {
        "folder": Path(f"runs/{algorithm}/{env_id}_{0 if seed is None else seed + 1}"),
        "budget": 1_000,
        "evaluations": evaluations if len(scores) else None,
        "episodes": Episodes(STEPS[1:], np.array(scores[1:], dtype=np.float64) - 1, STEPS[1:] / 100),
        "progress": {
            "time/total_timesteps": np.array([250.0, 1000.0]),
            "time/time_elapsed": np.array([1.0, 4.0]),
            "train/n_updates": np.array([10.0, 40.0]),
            "train/approx_kl": np.array([0.01, 0.02]),
        },
        "settings": {"n_steps": 5},
        "facts": {"command": "sb3-pg compare ...", "n_envs": 8},
    }
    return Record(algorithm, env_id, seed, **(arguments | more))


@pytest.fixture
def record() -> MakeRecord:
    """Makes one."""
    return make


@pytest.fixture
def grid() -> Callable[[Mapping[str, float]], list[Record]]:
    """Eight seeds of each algorithm on two environments, around the mean that it is given."""

    def runs(means: Mapping[str, float]) -> list[Record]:
        rng = np.random.default_rng(0)
        return [
            make(name, env_id, seed, [0.0, level * scale / 2, level * scale + rng.normal()])
            for name, level in means.items()
            for env_id, scale in (("CartPole-v1", 1.0), ("Pendulum-v1", 2.0))
            for seed in range(8)
        ]

    return runs
