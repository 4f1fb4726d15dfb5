"""One report over runs of everybody: the RL Zoo's own, those of a plain script, and cells of a grid."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from stable_baselines3 import PPO

from sb3_pg.compare import compare_runs
from sb3_pg.compare.grid import run_grid
from tests.compare_reading.runs import learn, run_zoo

ZOO = "--algo a2c --env CartPole-v1 -n 512 --eval-freq 128 --eval-episodes 3 -f logs --seed".split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("everybody")
    run_zoo(made, [*ZOO, "0"], [*ZOO, "1"])
    for seed in (0, 1):
        learn(PPO, made / "script" / f"run_{seed}", seed=seed, n_steps=512, eval_freq=64)
    ours, out = "reinforce:n_envs=2:n_steps=64", made / "grid"
    run_grid(ours, ["CartPole-v1"], 2, out, 512, eval_every=128, n_eval_episodes=3, progress=False)
    return made


def test_one_report_over_all(folder: Path, tmp_path: Path) -> None:
    found = compare_runs([folder / "logs", f"mine={folder / 'script'}", f"ours={folder / 'grid'}"])
    assert [(run.algorithm, run.env_id, run.seed) for run in found.records] == [
        (name, "CartPole-v1", seed) for name in ("a2c", "mine", "ours") for seed in (0, 1)
    ]
    assert len(found.analysis.pairs) == 3
    (environment,) = found.audit.environments
    assert environment.common_seeds == (0, 1)
    # whole rollouts: the Zoo's a2c has 40 steps in each, and 13 of them make 520
    assert {name: excess.most for name, excess in environment.excess.items()} == {"a2c": 8, "mine": 0, "ours": 0}
    n_envs = next(row for row in environment.rows if row.name == "environments").values
    assert n_envs["mine"] == n_envs["ours"] == "2"
    path = found.write(tmp_path / "report")
    text = path.with_suffix(".md").read_text()
    assert all(f"**{name}**: " in text for name in ("a2c", "mine", "ours"))
    scores = json.loads(path.with_name("scores.json").read_text())["scores"]
    assert all(score["final"] is not None and score["training"] is not None for score in scores)
    assert "6 runs: 3 algorithms, 1 environment, 512 environment steps" in text
