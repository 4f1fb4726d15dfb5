"""Evaluations out of ``evaluations.npz``, or out of what a logger kept of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sb3_pg.compare.reading.evaluations import evaluations_from_log, read_evaluations
from sb3_pg.compare.records import Evaluations


def save(folder: Path, steps: Any, results: Any) -> tuple[Evaluations | None, tuple[str, ...]]:
    np.savez(folder / "evaluations.npz", timesteps=steps, results=results)
    return read_evaluations(folder / "evaluations.npz", deterministic=True)


def test_as_they_are(tmp_path: Path) -> None:
    evaluations, remarks = save(tmp_path, [10, 20], [[1.0, 3.0], [5.0, 5.0]])
    assert evaluations is not None
    assert evaluations.steps.tolist() == [10, 20]
    assert evaluations.scores.tolist() == [2, 5]
    assert evaluations.deterministic is True
    assert not evaluations.are_means
    assert not remarks


def test_of_steps_that_were_evaluated_again_the_last_counts(tmp_path: Path) -> None:
    """A run that went on from step 10, and so evaluated 20 again; and one that was never sorted."""
    evaluations, remarks = save(tmp_path, [10, 20, 30, 20, 25], [[1.0], [2.0], [3.0], [4.0], [5.0]])
    assert evaluations is not None
    assert evaluations.steps.tolist() == [10, 20, 25, 30]
    assert evaluations.scores.tolist() == [1, 4, 5, 3]
    assert len(remarks) == 1
    assert "1 evaluations of steps that were evaluated again later" in remarks[0]


def test_scores_that_are_no_numbers_stay(tmp_path: Path) -> None:
    evaluations, remarks = save(tmp_path, [10, 20, 30], [[1.0, 1.0], [np.nan, 1.0], [np.inf, 1.0]])
    assert evaluations is not None
    assert np.array_equal(evaluations.scores, [1, np.nan, np.inf], equal_nan=True)
    assert remarks == ("evaluations.npz: 2 of 3 scores are not finite, first at step 20",)


@pytest.mark.parametrize(
    ("steps", "results", "what"),
    [
        ([10, 20], [[1.0]], r"\(2,\) steps and \(1, 1\) returns"),
        ([], [], r"\(0,\) steps"),
        ([10], np.array([{"a": 1}], dtype=object), "cannot be read"),
        ([10], [["high"]], "cannot be read"),
    ],
    ids=["lengths", "empty", "pickled", "words"],
)
def test_what_is_none(steps: Any, results: Any, what: str, tmp_path: Path) -> None:
    """Pickled arrays are not unpickled, since that would run what is in them."""
    evaluations, remarks = save(tmp_path, steps, results)
    assert evaluations is None
    assert len(remarks) == 1
    assert re.match(rf"evaluations.npz: .*{what}", remarks[0])


def test_another_archive(tmp_path: Path) -> None:
    np.savez(tmp_path / "evaluations.npz", returns=[1.0])
    evaluations, remarks = read_evaluations(tmp_path / "evaluations.npz")
    assert evaluations is None
    assert remarks == ("evaluations.npz: has no array timesteps, so it is not EvalCallback's",)


def test_means_in_a_log() -> None:
    """An evaluation has a line of its own in the log, or shares one; other lines have none."""
    steps = np.array([10.0, 20.0, 20.0, 30.0, np.nan])
    means = np.array([np.nan, 1.5, np.nan, -np.inf, 2.0])
    evaluations, remarks = evaluations_from_log({"time/total_timesteps": steps, "eval/mean_reward": means})
    assert evaluations is not None
    assert evaluations.steps.tolist() == [20, 30]
    assert evaluations.returns.tolist() == [[1.5], [-np.inf]]
    assert evaluations.are_means
    assert any("only their means" in remark for remark in remarks)
    assert evaluations_from_log({"time/total_timesteps": steps}) == (None, ())
