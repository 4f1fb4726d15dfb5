"""How the numbers of a comparison are written."""

from __future__ import annotations

import math

import pytest

from sb3_pg.compare.analysis import analyse
from sb3_pg.compare.audit import audit
from sb3_pg.compare.page import tables
from sb3_pg.report import Details, Table
from tests.compare.conftest import MakeRecord


@pytest.mark.parametrize(
    ("level", "final"),
    [(1_000, "1,002 [1,001, 1,003]"), (100, "102.0 [101.3, 102.7]"), (10, "12.00 [11.26, 12.74]"), (0.1, None)],
)
def test_all_numbers_of_a_table_have_as_many_decimals(record: MakeRecord, level: float, final: str | None) -> None:
    runs = [record(name, "A-v0", seed, [0, 0, level + seed]) for name in ("ppo", "a2c") for seed in range(5)]
    (table,) = tables.final_scores(analyse(runs), "the policy")
    rows = table.cells()
    assert final is None or rows[0][2].partition(" ")[0] == final.partition(" ")[0]
    numbers = [cell for row in rows for cell in [row[2].partition(" ")[0], *row[3:]]]
    assert len({len(cell.partition(".")[2]) for cell in numbers}) == 1
    assert len(numbers) == 2 * 7


def test_a_number_that_is_not_there_is_a_dash(record: MakeRecord) -> None:
    runs = [record(name, "A-v0", seed, [0, 0, 1], episodes=None) for name in ("ppo", "a2c") for seed in range(2)]
    (table,) = tables.final_scores(analyse(runs), "the policy")
    assert math.isnan(table.rows[0][-1])  # type: ignore[arg-type]
    assert table.cells()[0][-1] == "–"  # noqa: RUF001


def test_times_are_in_the_order_of_environments_and_to_hundredths(record: MakeRecord) -> None:
    runs = [
        record(name, env_id, seed, [9 if name == "a2c" else 0, 9, 9])
        for name in ("ppo", "a2c")
        for env_id in ("B-v0", "A-v0")
        for seed in range(2)
    ]
    notes = {"steps": [0, 500, 1000], "train_seconds": [1e-6, 1.23456, 3.0]}
    for run in runs:
        run.facts["evaluations"] = notes
    table = tables.reaches(analyse(runs, thresholds={"A-v0": 5.0, "B-v0": 5.0}))
    assert [(row[0], row[2]) for row in table.cells()] == [
        ("B-v0", "ppo"),
        ("B-v0", "a2c"),
        ("A-v0", "ppo"),
        ("A-v0", "a2c"),
    ]
    assert [row[-1] for row in table.cells()][:2] == ["1.23 [1.23, ∞]", "0 [0, ∞]"]


def test_hyperparameters_are_folded_away_unless_runs_of_one_differ(record: MakeRecord) -> None:
    def equality(ppo: dict[str, float], last: dict[str, float]) -> tuple[list[Table], list[Details]]:
        settings = [ppo, ppo, ppo, ppo, last]
        runs = [record("ppo", "A-v0", seed, [0, 0, 1], settings=some) for seed, some in enumerate(settings)]
        runs += [record("a2c", "A-v0", seed, [0, 0, 1], settings={"gamma": 0.9}) for seed in range(5)]
        blocks = tables.equality(audit(runs))
        return [one for one in blocks if isinstance(one, Table)], [one for one in blocks if isinstance(one, Details)]

    shown, folded = equality({"gamma": 0.99}, {"gamma": 0.99})
    assert [one.caption for one in shown] == ["A-v0: runs"]
    assert folded[0].summary == "A-v0: networks and hyperparameters"
    shown, folded = equality({"gamma": 0.99}, {"gamma": 0.5})
    assert [row[0] for row in shown[1].rows] == ["gamma"]
