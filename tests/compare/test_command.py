"""``sb3-pg compare`` from its words to its files."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from sb3_pg import cli
from sb3_pg.compare import compare_runs
from sb3_pg.compare.command import CONDITION_HOLDS, main

TRAIN = (
    "--envs",
    "CartPole-v1",
    "--steps",
    "512",
    "--eval-every",
    "256",
    "--eval-episodes",
    "2",
    "--config",
    "defaults",
)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two algorithms, two seeds each, and their report."""
    folder = tmp_path_factory.mktemp("runs")
    algos = "ppo:n_steps=128,reinforce:n_steps=128"
    assert main(["--algos", algos, *TRAIN, "--seeds", "2", "--out", str(folder)]) == 0
    return folder


def test_the_help_is_in_groups(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    titles = ["what to compare", "how to evaluate", "how to run", "what to say"]
    assert [line for line in shown.splitlines() if line.removesuffix(":") in titles] == [f"{one}:" for one in titles]
    assert "``" not in shown


def test_everything_is_beside_the_report(out: Path) -> None:
    report = out / "report"
    files = {path.relative_to(report).as_posix() for path in report.rglob("*") if path.is_file()}
    assert {"report.html", "report.md", "scores.json", "scores.csv", "figures/aggregates.svg"} <= files
    assert {"figures/curves_steps.png", "figures/improvement.svg", "tables/scores_CartPole-v1.tex"} <= files
    assert not [name for name in files if name.startswith(".")]


def test_the_page_says_the_result_in_words_and_its_limits(out: Path) -> None:
    text = (out / "report" / "report.md").read_text()
    assert text.index("## Verdict") < text.index("What this does not support") < text.index("## Over all environments")
    assert "fewer than 5 seeds" in text
    assert "sb3-pg compare --algos" in text


def test_the_numbers_are_those_of_the_runs(out: Path) -> None:
    found = compare_runs([out])
    rows = list(csv.DictReader((out / "report" / "scores.csv").open()))
    assert [(row["algorithm"], row["seed"]) for row in rows] == [
        (record.algorithm, str(record.seed)) for record in found.records
    ]
    for row, record in zip(rows, found.records, strict=True):
        assert record.evaluations is not None
        assert float(row["final"]) == record.evaluations.returns[-1].mean()
        assert float(row["best"]) == record.evaluations.returns.mean(axis=1).max()
    numbers = json.loads((out / "report" / "scores.json").read_text())
    (pair,) = numbers["pairs"]
    assert pair["improvement"]["estimate"] == found.analysis.pairs[0].improvement.estimate
    assert numbers["thresholds"] == {"CartPole-v1": 475.0}


def test_the_same_command_again_trains_nothing_and_gives_the_same_report(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in out.rglob("cell.json")}
    html = (out / "report" / "report.md").read_text()
    algos = "ppo:n_steps=128,reinforce:n_steps=128"
    assert main(["--algos", algos, *TRAIN, "--seeds", "2", "--out", str(out)]) == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("cell.json")} == before
    assert (out / "report" / "report.md").read_text() == html
    assert "What this does not support" in capsys.readouterr().out


def test_runs_that_are_there_are_reported_without_training(out: Path, tmp_path: Path) -> None:
    assert main(["--runs", str(out), "--out", str(tmp_path)]) == 0
    assert (tmp_path / "report" / "report.html").is_file()


@pytest.mark.parametrize(
    ("condition", "status"),
    [("ppo:n_steps=128 < 501", CONDITION_HOLDS), ("ppo:n_steps=128 > 501", 0)],
)
def test_a_condition_gives_the_exit_status(out: Path, tmp_path: Path, condition: str, status: int) -> None:
    assert main(["--runs", str(out), "--out", str(tmp_path), "--fail-if", condition]) == status


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to compare: give --algos and --envs, or --runs"),
        (["--algos", "ppo"], "--algos goes with --envs"),
        (["--envs", "CartPole-v1"], "nothing to compare"),
        (["--runs", "nowhere"], "nowhere"),
        (["--algos", "ppoo", "--envs", "CartPole-v1"], "did you mean ppo?"),
        (["--algos", "ppo", "--envs", "CartPole-v9"], "CartPole-v"),
        (["--algos", "ppo", "--envs", "CartPole-v1", "--seeds", "many"], "--seeds many: write how many"),
        (["--algos", "ppo", "--envs", "CartPole-v1", "--seeds", "0"], "seeds"),
        (["--algos", "ppo", "--envs", "CartPole-v1", "--steps", "long"], "--steps long: write a number"),
        (["--algos", "ppo", "--envs", "CartPole-v1", "--steps", "0"], "budget"),
        (["--algos", "a2c,ppo", "--envs", "CartPole-v1"], "like --steps 100000 (in Python steps=100_000)"),
        (["--algos", "ppo", "--envs", "CartPole-v1", "--cell", "3"], "--cell 3: write K/N"),
        (["--algos", "ppo", "--envs", "CartPole-v1", "--cell", "3", "of", "2"], "cell 3 of 2"),
        (["--algos", "ppo", "--envs", "CartPole-v1", "--job", "2x"], "--help lists the arguments"),
        (["--algos", "ppo", "--envs", "CartPole-v1", "--backend", "slurm"], "loky, ray, dask"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    words: Sequence[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sb3-pg", "compare", *words])
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert cli.main() == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("sb3-pg compare: ")
    assert error.count("\n") == 1
    assert not list(tmp_path.rglob("cell.json"))


def test_what_goes_with_the_runs_is_checked(out: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="threshold for Acrobot-v1 and no run: write one of CartPole-v1"):
        main(["--runs", str(out), "--out", str(tmp_path), "--threshold", "Acrobot-v1=-100"])
    with pytest.raises(ValueError, match="there is no a2c here"):
        main(["--runs", str(out), "--out", str(tmp_path), "--fail-if", "a2c < 3"])


def test_a_folder_that_cannot_be_written_is_said(out: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file"):
        main(["--runs", str(out), "--out", str(tmp_path / "file")])
