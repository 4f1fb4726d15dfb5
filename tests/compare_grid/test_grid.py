"""Grids from end to end: folders, ways to fill them, what fails and what is refused."""

from __future__ import annotations

import gc
import io
import json
import re
import sys
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from stable_baselines3 import PPO

from sb3_pg.compare.grid import parse_contenders, run_grid
from sb3_pg.compare.grid.cell import train_cell
from sb3_pg.compare.grid.folders import locked
from sb3_pg.compare.grid.grid import BACKENDS
from sb3_pg.compare.grid.planning import plan_cells
from sb3_pg.zoo import commands
from tests.compare_grid.small import N_CELLS, SMALL, TINY, answers, fill, litter

REINFORCE, PPO_LABEL, OWN = SMALL["contenders"].split(",")


def read(folder: Path) -> dict[str, Any]:
    cell: dict[str, Any] = json.loads((folder / "cell.json").read_text())
    return cell


def test_folders(small_grid: Path) -> None:
    """Everything that the Zoo leaves, and ``cell.json``; nothing besides."""
    contenders = [contender.folder for contender in parse_contenders(SMALL["contenders"])]
    assert sorted(path.name for path in small_grid.iterdir()) == sorted(contenders)
    assert litter(small_grid) == []
    for contender in contenders:
        assert sorted(path.name for path in (small_grid / contender).iterdir()) == ["CartPole-v1_1", "CartPole-v1_2"]
        folder = small_grid / contender / "CartPole-v1_2"
        assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()) == [
            "0.monitor.csv",
            "1.monitor.csv",
            "CartPole-v1.zip",
            "CartPole-v1/args.yml",
            "CartPole-v1/command.txt",
            "CartPole-v1/config.yml",
            "cell.json",
            "evaluations.npz",
            "progress.csv",
        ]
        assert "train/n_updates" in (folder / "progress.csv").read_text()
        config = dict(yaml.unsafe_load((folder / "CartPole-v1" / "config.yml").read_text()))
        assert (config["n_envs"], config["n_timesteps"]) == (2, 768)
        with np.load(folder / "evaluations.npz") as file:
            assert file["results"].shape == file["ep_lengths"].shape == (5, 2)
            assert file["timesteps"].tolist() == [0, 192, 384, 576, 768]


def test_cell_file(small_grid: Path) -> None:
    cell = read(small_grid / PPO_LABEL / "CartPole-v1_2")
    asked = {"label": PPO_LABEL, "algorithm": "ppo", "env_id": "CartPole-v1", "seed": 1, "budget": 768}
    asked |= {"eval_every": 192, "n_eval_episodes": 2, "deterministic": True, "error": "", "remarks": []}
    asked |= {"class": "stable_baselines3.ppo.ppo.PPO", "n_envs": 2, "normalization": None, "steps": 768}
    assert {key: cell[key] for key in asked} == asked
    assert cell["settings"]["batch_size"] == 64
    assert cell["defaults"]["vf_coef"] == 0.5
    assert not cell["defaults"].keys() & (cell["settings"].keys() | {"env", "seed", "device", "verbose"})
    # 4 -> 64 -> 64 -> 2 and 4 -> 64 -> 64 -> 1, with biases
    assert cell["network"]["parameters"] == 2 * (5 * 64 + 65 * 64) + 65 * 3
    assert cell["network"]["layers"]["action_net"] == [2, 64]
    assert {"python", "sb3-pg", "stable-baselines3", "sb3-contrib", "rl_zoo3", "gymnasium", "torch", "numpy"} <= set(
        cell["versions"]
    )
    assert set(cell["machine"]) == {"cpu", "cores", "system", "host"}
    assert cell["command"] == sys.orig_argv
    assert re.fullmatch(r"([0-9a-f]{40}(-dirty)?)?", cell["commit"])
    assert cell["train_seconds"] > 0
    assert cell["eval_seconds"] > 0
    assert cell["started"] <= cell["finished"]
    own = read(small_grid / OWN.lower() / "CartPole-v1_1")
    assert own["class"] == "tests.compare_grid.actors.Own"
    assert "defaults of its constructor" in own["remarks"][0]


def test_seeds_and_contenders_differ(expected: dict[str, dict[str, Any]]) -> None:
    """Else what follows could not tell them apart."""
    parameters = [json.dumps(answer["parameters"]) for answer in expected.values()]
    assert len(expected) == N_CELLS
    # Our class and the user's, which adds nothing to it, differ by their configurations
    assert len(set(parameters)) == N_CELLS


def test_processes(expected: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    """Two at a time, in parts of an array: the same to the bit."""
    found = fill(tmp_path, cell=(2, 2), jobs=2)
    assert [(result.label, result.seed) for result in found] == [(PPO_LABEL, 0), (REINFORCE, 1), (OWN, 1)]
    assert len(answers(tmp_path)) == N_CELLS // 2
    assert len(fill(tmp_path, cell=(1, 2), jobs=2)) == N_CELLS // 2
    assert answers(tmp_path) == expected
    assert litter(tmp_path) == []


def test_local_ray(expected: dict[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a Ray that is there already, and is left as it was."""
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        fill(tmp_path, jobs=2, backend="ray")
        assert ray.is_initialized()
    finally:
        ray.shutdown()
    assert answers(tmp_path) == expected
    assert litter(tmp_path) == []


def test_dask(expected: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    """On a client that is there; its workers must train one cell at a time."""
    distributed = pytest.importorskip("distributed")
    local = {"processes": False, "n_workers": 1, "dashboard_address": None}
    with distributed.Client(**local, threads_per_worker=1):
        fill(tmp_path, jobs=2, backend="dask")
    assert answers(tmp_path) == expected
    with distributed.Client(**local, threads_per_worker=2):
        with pytest.raises(RuntimeError, match="cells need a process each: start workers of one thread"):
            fill(tmp_path, seeds=3, jobs=2, backend="dask")


@pytest.mark.parametrize("n_steps", [64, -1], ids=["a grid", "one that is refused"])
def test_no_file_stays_open(n_steps: int, tmp_path: Path) -> None:
    """Of logs and of episodes: a grid in one process would run out of them."""
    gc.collect()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", ResourceWarning)
        with pytest.raises(ValueError, match="n_steps") if n_steps < 0 else nullcontext():
            fill(tmp_path, contenders=f"reinforce:n_envs=2:n_steps={n_steps}")
        gc.collect()
    assert [str(one.message) for one in warned if issubclass(one.category, ResourceWarning)] == []


def test_nothing_is_done_twice(small_grid: Path, expected: dict[str, dict[str, Any]]) -> None:
    before = {path: path.stat().st_mtime_ns for path in small_grid.rglob("*") if path.is_file()}
    found = fill(small_grid)
    assert not any(result.is_new for result in found)
    assert {path: path.stat().st_mtime_ns for path in small_grid.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": 1024}, "budget is 768 there, 1024 is asked now"),
        ({"eval_every": 100}, "eval_every is 192 there, 100 is asked now"),
        ({"n_eval_episodes": 3}, "n_eval_episodes is 2 there, 3 is asked now"),
        ({"deterministic": False}, "deterministic is True there, False is asked now"),
        ({"config": "defaults"}, r"gamma is 1.0 there, not given is asked now"),
    ],
)
def test_another_question(changes: dict[str, Any], message: str, small_grid: Path) -> None:
    """Refused before anything is trained, and nothing of what is there is touched."""
    before = sorted(small_grid.rglob("*"))
    with pytest.raises(ValueError, match=f"was asked for something else .*{message}.*give another --out") as error:
        fill(small_grid, seeds=3, **changes)
    assert "\n" not in str(error.value)
    assert sorted(small_grid.rglob("*")) == before


def test_somebody_elses_run(tmp_path: Path) -> None:
    (tmp_path / "ppo" / "CartPole-v1_1").mkdir(parents=True)
    message = "CartPole-v1_1 is there, and is no cell of a grid: give another --out"
    with pytest.raises(ValueError, match=message):
        fill(tmp_path, contenders="ppo")
    (tmp_path / "ppo" / "CartPole-v1_1" / "cell.json").write_text('{"label": "pp')
    with pytest.raises(ValueError, match=message):
        fill(tmp_path, contenders="ppo")


CRASHING = f"tests.compare_grid.actors.Crashing:{TINY}"


def test_failures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Recorded with their tracebacks, and kept; the others go on."""
    diverging = "tests.compare_grid.actors.Diverging:learning_starts=10:buffer_size=100"
    grid = {"contenders": f"{CRASHING},{diverging},a2c:{TINY}", "seeds": 1, "progress": True}
    crashed, diverged, fine = fill(tmp_path, **grid)
    assert crashed.error.startswith("Traceback")
    assert "line" in crashed.error and "ArithmeticError: the third update" in crashed.error
    assert "FloatingPointError: after 768 steps q_net" in diverged.error
    assert fine.error == ""
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert any(
        re.fullmatch(r"\[\d/3\] .*Crashing.* seed 0: failed: ArithmeticError: the third update", line) for line in lines
    )
    assert litter(tmp_path) == []

    cell = read(crashed.folder)
    assert cell["error"] == crashed.error
    assert (cell["updates"], cell["steps"]) == (2, 384)
    with np.load(crashed.folder / "evaluations.npz") as file:
        assert file["timesteps"].tolist() == [0, 192, 384]
    assert not list(crashed.folder.glob("*.zip"))

    before = (crashed.folder / "cell.json").read_text()
    assert [result.is_new for result in fill(tmp_path, **grid)] == [False] * 3
    assert (crashed.folder / "cell.json").read_text() == before
    again = fill(tmp_path, **grid, retry_failed=True)
    assert [(result.is_new, bool(result.error)) for result in again] == [(True, True), (True, True), (False, False)]
    assert litter(tmp_path) == []


def test_a_bar_with_the_time_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    fill(tmp_path, contenders=f"a2c:{TINY},{CRASHING}", seeds=1, progress=True)
    last = terminal.getvalue().split("\r")[-1]
    assert re.search(r"2 of 2 cells, 1 failed: 100%.* 1.54k/1.54k \[\d\d:\d\d<\d\d:\d\d, .* steps/s\]", last)
    assert "failed: ArithmeticError" in terminal.getvalue()


def test_the_zoo_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """``enjoy`` and the plots of evaluations."""
    monkeypatch.setenv("MPLBACKEND", "Agg")
    found = fill(tmp_path, contenders="ppo", budget=512)
    assert PPO.load(found[0].folder / "CartPole-v1.zip").num_timesteps == 512
    monkeypatch.chdir(tmp_path)
    assert commands.main("enjoy --algo ppo --env CartPole-v1 -f . --exp-id 2 --no-render -n 200".split()) == 0
    assert "Mean reward" in capsys.readouterr().out
    assert commands.main("all-plots -a ppo -e CartPole -f . -o plots".split()) == 0
    assert (tmp_path / "plots.pkl").is_file()


def test_a_cell_that_somebody_trains(tmp_path: Path) -> None:
    """Left alone, and not waited for."""
    job = plan_cells(parse_contenders(f"a2c:{TINY}"), ["CartPole-v1"], 1, tmp_path, 256, eval_every=256)[0]
    with locked(job.place) as is_mine:
        assert is_mine
        assert train_cell(job) is None
        assert not job.place.exists()
    found = train_cell(job)
    assert found is not None
    assert found.is_new


def grid(tmp_path: Path, **changes: Any) -> Any:
    arguments: dict[str, Any] = {
        "contenders": "a2c,ppo",
        "env_ids": ["CartPole-v1"],
        "seeds": 1,
        "out": tmp_path / "out",
        "budget": 256,
    }
    return run_grid(**arguments | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"contenders": "a2c,pppo"}, "no algorithm pppo: did you mean ppo?"),
        ({"contenders": []}, "there is no algorithm to train"),
        ({"env_ids": ["CartPole-v1", "CartPol-v1"]}, "no environment CartPol-v1: .*CartPole"),
        ({"env_ids": []}, "no environment to train on"),
        ({"seeds": 0}, "seeds is 0: it must be a whole number of at least 1"),
        ({"seeds": []}, "seeds are .*write how many, or different ones from 0 on"),
        ({"seeds": [1, 1]}, "seeds are .*write how many, or different ones from 0 on"),
        ({"seeds": [-1]}, "seeds are .*write how many, or different ones from 0 on"),
        ({"budget": 0}, "budget is 0: it must be"),
        ({"budget": {"Acrobot-v1": 10}}, "budget for Acrobot-v1, which is not in the grid: did you mean CartPole-v1?"),
        ({"budget": {}}, "no budget for CartPole-v1"),
        ({"budget": None}, r"mixed budgets: .*CartPole-v1 .*\(a2c 500000, ppo 100000\): give one number"),
        ({"jobs": 0}, "jobs is 0"),
        ({"cell": (3, 2)}, "cell 3 of 2 is not there"),
        ({"cell": (0, 2)}, "cell 0 of 2 is not there"),
        ({"backend": "threading"}, f"backend='threading' is not there: write one of {', '.join(BACKENDS)}"),
        ({"config": "mine"}, "config='mine' is not there: write one of zoo, defaults"),
        ({"eval_every": 0}, "eval_every is 0"),
        ({"n_eval_episodes": 0}, "n_eval_episodes is 0"),
        ({"n_envs": 0}, "n_envs is 0"),
        (
            {"contenders": "a2c,ppo:gama=1"},
            "ppo:gama=1 on CartPole-v1: PPO has no hyperparameter gama: did you mean gamma?",
        ),
        ({"contenders": "a2c,reinforce:baseline=value:n_episodes=3"}, "reinforce:.* on CartPole-v1: .*8"),
        ({"contenders": "ppo,dqn", "env_ids": ["CartPole-v1", "Pendulum-v1"]}, "dqn on Pendulum-v1: .*Discrete"),
    ],
)
def test_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    """In one line, before anything is trained."""
    with pytest.raises(ValueError, match=message) as error:
        grid(tmp_path, **changes)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("out/*"))


def test_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file is a file: --out must be a folder"):
        grid(tmp_path, out=tmp_path / "file")
    with pytest.raises(ValueError, match="file/in_it cannot be made: Not a directory"):
        grid(tmp_path, out=tmp_path / "file" / "in_it")
