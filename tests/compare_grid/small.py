"""A grid of seconds, and what came out of it to the last bit."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch as th

from sb3_pg.compare.grid import CellResult, run_grid

TINY = "n_envs=2:n_steps=64"
#: One of ours, one of SB3's, one of the user's; each with two seeds.
SMALL: dict[str, Any] = {
    "contenders": f"reinforce:{TINY},ppo:{TINY}:batch_size=64:n_epochs=2,tests.compare_grid.actors.Own:{TINY}",
    "env_ids": ["CartPole-v1"],
    "seeds": 2,
    "budget": 768,
    "eval_every": 192,
    "n_eval_episodes": 2,
    "progress": False,
}
N_CELLS = 6


def fill(out: Path, **changes: Any) -> list[CellResult]:
    """The small grid, or one that is like it."""
    arguments = SMALL | changes
    return run_grid(arguments.pop("contenders"), arguments.pop("env_ids"), arguments.pop("seeds"), out, **arguments)


def answers(out: Path) -> dict[str, dict[str, Any]]:
    """What each cell came to: scores, parameters, training episodes; all but times."""
    return {str(path.parent.relative_to(out)): _answer(path.parent) for path in sorted(out.glob("*/*/cell.json"))}


def _answer(folder: Path) -> dict[str, Any]:
    with np.load(folder / "evaluations.npz") as file:
        answer: dict[str, Any] = {key: file[key].tolist() for key in file.files}
    with zipfile.ZipFile(next(folder.glob("*.zip"))) as model:
        parameters = th.load(io.BytesIO(model.read("policy.pth")), weights_only=True)
    answer["parameters"] = {name: values.tolist() for name, values in parameters.items()}
    for path in sorted(folder.glob("*.monitor.csv")):
        answer[path.name] = [line.rsplit(",", 1)[0] for line in path.read_text().splitlines()[1:]]
    cell = json.loads((folder / "cell.json").read_text())
    answer["cell"] = {key: cell[key] for key in ("label", "seed", "steps", "updates", "gradient_steps", "error")}
    return answer


def litter(out: Path) -> list[str]:
    """What lies about in a grid's folder besides its cells."""
    cells = {path.parent for path in out.glob("*/*/cell.json")}
    return sorted(str(path.relative_to(out)) for path in out.glob("*/*") if path not in cells)
