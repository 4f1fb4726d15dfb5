"""What is said of runs whose truth is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import pytest

from sb3_pg.compare.analysis import analyse
from sb3_pg.compare.comparison import compare_records
from sb3_pg.compare.page import comparison_page
from sb3_pg.compare.records import Record
from sb3_pg.compare.verdict import holds, parse_condition, unsupported, verdict
from sb3_pg.report import Paragraph
from sb3_pg.report.page import figures, named_tables
from tests.compare.conftest import MakeRecord

Grid = Callable[[Mapping[str, float]], list[Record]]


def test_far_apart_is_better_and_worse_and_alike_is_not_shown(grid: Grid) -> None:
    analysis = analyse(grid({"ppo": 30.0, "a2c": 10.0, "twin": 10.0}))
    said = {line.split("**")[1]: line for line in verdict(analysis)[1:]}
    assert said["ppo"].startswith("**ppo**: better than a2c (1.00, ")
    assert "worse than ppo (0.00, " in said["a2c"]
    assert "no difference shown to twin" in said["a2c"]
    assert verdict(analysis)[0].startswith(
        "Over 2 environments, highest interquartile mean of the final scores: **ppo**"
    )


def test_the_statements_of_both_sides_agree(grid: Grid) -> None:
    analysis = analyse(grid({"ppo": 30.0, "a2c": 29.0}))
    (pair,) = analysis.pairs
    a2c, ppo = f"{1 - pair.improvement.estimate:.2f}", f"{pair.improvement.estimate:.2f}"
    said = {line.split("**")[1]: line for line in verdict(analysis)[1:]}
    assert f"a2c ({ppo}, " in said["ppo"]
    assert f"ppo ({a2c}, " in said["a2c"]


def test_tasks_of_any_scale_count_alike(grid: Grid) -> None:
    analysis = analyse(grid({"ppo": 30.0, "a2c": 10.0}))
    for matrix in analysis.normalised.values():
        assert ((matrix >= 0) & (matrix <= 1)).all()
    assert analysis.normalised["ppo"].max(axis=0) == pytest.approx([1, 1])
    assert analysis.normalised["a2c"].min(axis=0) == pytest.approx([0, 0])


def test_a_scale_of_the_users_own(grid: Grid) -> None:
    analysis = analyse(grid({"ppo": 30.0, "a2c": 10.0}), scale={"CartPole-v1": (0, 30), "Pendulum-v1": (0, 60)})
    assert analysis.aggregates["ppo"]["mean"].estimate == pytest.approx(1.0, abs=0.05)
    assert analysis.aggregates["a2c"]["mean"].estimate == pytest.approx(1 / 3, abs=0.05)
    with pytest.raises(ValueError, match="no scale for Pendulum-v1"):
        analyse(grid({"ppo": 30.0, "a2c": 10.0}), scale={"CartPole-v1": (0, 30)})


def test_one_seed_works_and_refuses_intervals(record: MakeRecord) -> None:
    analysis = analyse([record("ppo", "A-v0", 0, [0, 1, 2]), record("a2c", "A-v0", 0, [0, 1, 1])])
    assert analysis.pairs == ()
    assert math.isnan(analysis.aggregates["ppo"]["IQM"].low)
    assert "single run" in verdict(analysis)[-1]
    assert "fewer than 5 seeds (1)" in unsupported(analysis, ())[0]
    with pytest.raises(ValueError, match="a single run shows nothing"):
        holds(parse_condition("ppo < a2c", ["ppo", "a2c"]), analysis)


def test_few_seeds_and_failed_runs_are_said(record: MakeRecord) -> None:
    runs = [record(name, "A-v0", seed, [0, 1, seed]) for name in ("ppo", "a2c") for seed in range(3)]
    runs.append(record("a2c", "A-v0", 3, [0, 1], error="Traceback\nValueError: broke"))
    lines = unsupported(analyse(runs), ["a warning of the audit"])
    assert lines[0] == "A warning of the audit"
    assert any("a2c on A-v0, seed 3" in line and "lowest score" in line for line in lines)


def test_runs_that_all_score_the_same_are_a_draw(record: MakeRecord) -> None:
    analysis = analyse([record(name, "A-v0", seed, [0, 1, 500]) for name in ("ppo", "a2c") for seed in range(6)])
    (pair,) = analysis.pairs
    assert pair.verdict.value == "not shown"
    assert pair.improvement.estimate == 0.5


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("a2c < ppo", True),
        ("ppo > a2c", True),
        ("ppo < a2c", False),
        ("a2c > ppo", False),
        ("a2c < twin", False),
        ("twin < a2c", False),
        # means of 10 and 20 on the two environments, with intervals of about one
        ("a2c < 12", True),
        ("a2c < 8", False),
        ("a2c > 15", True),
        ("ppo < 20", False),
    ],
)
def test_conditions(grid: Grid, condition: str, expected: bool) -> None:
    analysis = analyse(grid({"ppo": 30.0, "a2c": 10.0, "twin": 10.0}))
    assert holds(parse_condition(condition, analysis.scores.labels), analysis) is expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ppo", "no condition: write one like"),
        ("ppo <= a2c", "no condition: write one like"),
        ("ppo < sac", "there is no sac here, only ppo, a2c"),
        ("sac < 3", "there is no sac here"),
        ("ppo < ppo", "compares ppo with itself"),
    ],
)
def test_what_is_no_condition_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_condition(text, ["ppo", "a2c"])


def test_thresholds_count_runs_that_never_reach_them(record: MakeRecord) -> None:
    runs = [record("ppo", "A-v0", seed, [0, level, level]) for seed, level in enumerate((9.0, 11.0, 12.0))]
    (reach,) = analyse(runs, thresholds={"A-v0": 10.0}).reaches
    assert reach.n_reached == 2
    assert [(one.time, one.reached) for one in reach.steps] == [(1000, False), (500, True), (500, True)]
    assert [one.time for one in reach.seconds] == [4, 2, 2]


def test_an_environment_that_one_algorithm_lacks_is_in_no_aggregate(record: MakeRecord) -> None:
    runs = [record(name, "A-v0", seed, [0, 1, seed]) for name in ("ppo", "a2c") for seed in range(3)]
    runs += [record("ppo", "B-v0", seed, [0, 1, 9]) for seed in range(3)]
    analysis = analyse(runs)
    assert analysis.env_ids == ("A-v0",)
    assert {(one.algorithm, one.env_id) for one in analysis.tasks} == {
        ("ppo", "A-v0"),
        ("a2c", "A-v0"),
        ("ppo", "B-v0"),
    }


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ([("ppo", "A-v0", 0, [1.0]), ("a2c", "B-v0", 0, [1.0])], "no environment has runs of all of ppo, a2c"),
        ([("ppo", "A-v0", 0, [1.0]), ("ppo", "B-v0", 1, [1.0])], "no seed of ppo has runs on all of A-v0, B-v0"),
        ([("ppo", "A-v0", 0, [np.nan])], "no run has a finite score on one of A-v0"),
    ],
)
def test_what_cannot_be_compared_is_refused(record: MakeRecord, runs: list[tuple[object, ...]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        analyse([record(*run) for run in runs])


def test_wherever_a_failed_run_counts_the_page_says_how(record: MakeRecord) -> None:
    runs = [record(name, "A-v0", seed, [0, 1, 3 + seed]) for name in ("ppo", "a2c") for seed in range(5)]
    sentence = "Runs without a final score (1 here) count with the lowest of any run on their environment."
    for broken in ([], [record("a2c", "A-v0", 5, [0, 1], error="Traceback\nValueError: broke")]):
        found = compare_records([*runs, *broken])
        page = comparison_page(found.records, found.analysis, found.audit, {}, "T", "")
        captions = [figure.caption for figure in figures(page)]
        (table,) = (table for table in named_tables(page) if table.name == "scores_A-v0")
        assert [sentence in caption for caption in captions[:3]] == [bool(broken)] * 3
        assert ("counts with the lowest of all, 3; best, area, training leave it out" in table.caption) == bool(broken)


def test_brackets_are_explained_where_there_are_some(record: MakeRecord) -> None:
    for n_seeds in (1, 2):
        found = compare_records([record(name, "A-v0", seed, [0, 1, seed]) for name in "ab" for seed in range(n_seeds)])
        page = comparison_page(found.records, found.analysis, found.audit, {}, "T", "")
        words = [block.text for block in page.sections[0].blocks if isinstance(block, Paragraph)]
        assert any("In brackets" in text for text in words) == (n_seeds > 1)
