"""The command: results on disk, a kill in the middle, checkpoints of a run, one line for bad input."""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.vec_env import VecNormalize

from sb3_pg import REINFORCE, cli
from sb3_pg.envs import make_vec_env
from sb3_pg.variance import Estimator, Measurement, Settings, command, measure_checkpoints, measure_gradients
from sb3_pg.variance.command import FILE
from sb3_pg.variance.instruments.credits import parse_estimator
from sb3_pg.variance.instruments.models import checkpoints, load_model, statistics_beside
from sb3_pg.variance.results import Estimate
from tests.helpers.environments import diary

SMALL = (
    "--env CartPole-v1 --batches 8 --reference-batches 8 --episodes 2 --chunk-batches 1 --critic-batches 1 "
    "--drifts 0.01 --landscape 0 1 --landscape-batches 4 --estimator returns=total "
    "--estimator returns=gae,baseline=value,critic=fitted,gae_lambda=0.9"
).split()


def arguments(out: Path, *more: str) -> list[str]:
    return [*SMALL, "--out", str(out), *more]


def main(argv: list[str]) -> int:
    return cli.run("variance", argv)


def pieces(folder: Path) -> dict[str, Any]:
    """What lies in the files, by their path in the folder."""
    found = {}
    for path in sorted(folder.rglob("*.npz")):
        with np.load(path) as file:
            found[str(path.relative_to(folder))] = {name: file[name] for name in file.files}
    return found


def assert_same(one: Path, other: Path) -> None:
    """To the bit, pieces and results."""
    assert (one / FILE).read_bytes() == (other / FILE).read_bytes()
    mine, others = pieces(one), pieces(other)
    assert mine.keys() == others.keys()
    for name, arrays in mine.items():
        assert arrays.keys() == others[name].keys()
        assert all(np.array_equal(array, others[name][key]) for key, array in arrays.items())


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its figures take longer than the measurement: for tests that look at the files of that alone."""
    monkeypatch.setattr(command, "write_page", lambda page, folder: folder / "report.html")


@pytest.mark.usefixtures("no_report")
def test_a_kill_in_the_middle_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A process killed by SIGKILL after its fifth piece, and another command that goes on; a piece half written is
    made again. Against one that nobody interrupted."""
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    code = "import sys, torch; torch.set_num_threads(1); from sb3_pg.cli import run; run('variance', sys.argv[1:])"
    process = subprocess.Popen([sys.executable, "-c", code, *arguments(killed)], stdout=subprocess.DEVNULL)
    try:
        while len(list(killed.rglob("*.npz"))) < 5:
            assert process.poll() is None, "it ended before it was killed"
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    n_pieces = len(list(killed.rglob("*.npz")))
    assert not (killed / FILE).exists()
    (next(killed.glob("reference-*")) / ".00007.npz.1.part").write_bytes(b"half a piece")
    assert main(arguments(killed)) == main(arguments(whole)) == 0
    assert 5 <= n_pieces < len(pieces(whole))
    assert_same(killed, whole)
    printed = capsys.readouterr().out
    assert "gae 0.9, fitted critic" in printed and "No --model: measuring a new policy of VanillaPG" in printed


def test_a_measurement_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Also what JSON has no number for; and what is no measurement is refused."""
    settings = Settings(batches=4, reference_batches=4, episodes=2, estimators=(Estimator(normalize=True),), drifts=())
    model = PPO("MlpPolicy", make_vec_env("CartPole-v1", 2), seed=0, device="cpu")
    measurement = measure_gradients(model, None, settings)
    measurement.save(tmp_path / "m.json")
    assert repr(Measurement.load(tmp_path / "m.json")) == repr(measurement)
    assert math.isnan(measurement.estimators[0].paired_bias.value) and "NaN" not in (tmp_path / "m.json").read_text()
    assert isinstance(Measurement.load(tmp_path / "m.json").mean_return, Estimate)
    for text in ("{}", "[", '{"settings": 3}'):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(ValueError, match=r"bad.json is no measurement of gradients"):
            Measurement.load(tmp_path / "bad.json")


def test_the_checkpoints_of_a_run(tmp_path: Path) -> None:
    """In the order of their steps, each with the statistics of its moment."""
    run, out = tmp_path / "ppo:n_steps=32" / "CartPole-v1_1", tmp_path / "out"
    run.mkdir(parents=True)
    env = VecNormalize(make_vec_env("CartPole-v1", 2))
    model = PPO("MlpPolicy", env, n_steps=32, batch_size=32, seed=0, device="cpu")
    for steps in (64, 128):
        model.learn(64, reset_num_timesteps=False)
        model.save(run / f"rl_model_{steps}_steps.zip")
        env.save(str(run / f"rl_model_vecnormalize_{steps}_steps.pkl"))
    assert [path.stem for path in checkpoints(run)] == ["rl_model_64_steps", "rl_model_128_steps"]
    assert statistics_beside(run / "rl_model_64_steps.zip") == run / "rl_model_vecnormalize_64_steps.pkl"
    assert main(arguments(out, "--run", str(run), "--drifts", "--landscape", "--transforms")) == 0
    found = [Measurement.load(out / f"rl_model_{steps}_steps" / FILE) for steps in (64, 128)]
    assert [one.steps for one in found] == [64, 128]
    for place in (out, *(out / f"rl_model_{steps}_steps" for steps in (64, 128))):
        assert (place / "report.html").is_file() and (place / "report.md").is_file()
    assert "2 checkpoints" in (out / "report.md").read_text()
    assert all(one.facts["algorithm"] == "PPO" and one.facts["normalized"] for one in found)
    assert found[0].mean_return != found[1].mean_return
    given = {name: found[0].settings[name] for name in ("batches", "episodes", "reference_batches", "chunk_batches")}
    settings = Settings(
        estimators=(Estimator("total"), parse_estimator("returns=gae,baseline=value,critic=fitted,gae_lambda=0.9")),
        critic_batches=1,
        drifts=(),
        landscape=(),
        transforms=(),
        **given,
    )
    loaded = VecNormalize.load(str(run / "rl_model_vecnormalize_128_steps.pkl"), make_vec_env("CartPole-v1", 2))
    (again,) = measure_checkpoints([(load_model(run / "rl_model_128_steps.zip"), loaded)], settings)
    assert repr(again.estimators) == repr(found[1].estimators)


BAD = {
    "no environment": ("", "which environment?"),
    "unknown environment": ("--env Nope-v7", "cannot make the environment Nope-v7: .*Nope"),
    "unknown argument": ("--env CartPole-v1 --batchez 3", "--batchez"),
    "too few batches": ("--env CartPole-v1 --batches 3", "batches must be an integer >= 4, got 3"),
    "no such model": ("--env CartPole-v1 --model none.zip --algo ppo", "there is no file none.zip"),
    "no such run": ("--env CartPole-v1 --run none", "there is no folder none"),
    "unknown algorithm": ("--env CartPole-v1 --algo sarsa", "there is no algorithm sarsa: write one of a2c, ppo"),
    "missing class": ("--env CartPole-v1 --algo sb3_pg.Nope", "there is no algorithm sb3_pg.Nope"),
    "unknown estimator": ("--env CartPole-v1 --estimator return=total", "name=value,... with names of returns, "),
    "bad lambda": ("--env CartPole-v1 --estimator gae_lambda=two", "gae_lambda must be a number, got 'two'"),
    "bad switch": ("--env CartPole-v1 --estimator normalize=1", "normalize must be true or false, got '1'"),
    "gae without a critic": ("--env CartPole-v1 --estimator returns=gae", "write baseline='value', not 'none'"),
    "no critic": ("--env CartPole-v1 --algo reinforce --estimator baseline=value", "wants the model's critic"),
    "no size 0": ("--env CartPole-v1 --landscape 1 2", "landscape needs a step of size 0"),
    "negative KL": ("--env CartPole-v1 --drifts -1", "a KL must be a number > 0, got -1.0"),
    "no statistics": ("--env CartPole-v1 --vecnormalize none.pkl", "there is no file none.pkl"),
    "endless episodes": ("--env CartPole-v1 --max-steps 3 --batches 4", "has not ended after 4 steps"),
    "two of one": ("--env CartPole-v1 --run a --model b", "--run measures the models of a folder and --model one"),
}


@pytest.mark.parametrize(("given", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_answered_in_one_line(
    given: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*given.split(), "--out", str(tmp_path / "out")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("sb3-pg variance: ")
    assert re.search(message, line), line


def test_bad_files_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model of nothing, one of an unknown kind, a damaged piece, a folder that is a file."""
    (tmp_path / "model.zip").write_bytes(b"no model")
    model = ["--model", str(tmp_path / "model.zip")]
    assert main(arguments(tmp_path, *model)) == 1
    assert main(arguments(tmp_path, *model, "--algo", "a2c")) == 1
    assert main(arguments(tmp_path / "model.zip")) == 1
    assert main(arguments(tmp_path / "out")) == 0
    damaged = next((tmp_path / "out").glob("measure-*/00002.npz"))
    damaged.write_bytes(damaged.read_bytes()[:100])
    assert main(arguments(tmp_path / "out")) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    for line, part in zip(
        lines, ("add --algo ppo", "cannot be loaded as A2C", "model.zip", "is damaged: delete it"), strict=True
    ):
        assert part in line


def test_what_cannot_be_measured_is_said(tmp_path: Path) -> None:
    def measure(model: Any, env: Any = None, **settings: Any) -> None:
        measure_gradients(model, env, Settings(**settings), tmp_path)

    reinforce = REINFORCE("MlpPolicy", diary(3, lengths=(2,)), device="cpu")
    with pytest.raises(ValueError, match="episodes=16 cannot be shared out equally over n_envs=3"):
        measure(reinforce)
    with pytest.raises(ValueError, match="Observation spaces do not match"):
        measure(reinforce, "CartPole-v1")
    with pytest.raises(ValueError, match=r"measures on-policy models .* got SAC"):
        measure(SAC("MlpPolicy", "Pendulum-v1", device="cpu", buffer_size=10))
    loaded = REINFORCE("MlpPolicy", "CartPole-v1", device="cpu")
    loaded.env = None
    with pytest.raises(ValueError, match="the model has no environment"):
        measure(loaded)
    for parameter in reinforce.policy.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter of this policy's actor learns"):
        measure(reinforce, episodes=3, transforms=())
    with pytest.raises(ValueError, match="importance='per_decision' weighs each reward"):
        Estimator("total", importance="per_decision")
    with pytest.raises(ValueError, match="drift_estimators have no critic"):
        measure(PPO("MlpPolicy", diary(1), device="cpu"), drift_estimators=(Estimator(baseline="value"),))


def test_an_interruption_by_hand_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("sb3_pg.variance.command._progress", interrupt)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert main(arguments(tmp_path)) == 130
    finally:
        signal.signal(signal.SIGINT, handler)
    assert capsys.readouterr().err == "sb3-pg variance: interrupted; the same command goes on where it stopped\n"
