"""What was equal and what was not, of runs that are made up."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sb3_pg.compare.audit import Audit, EnvironmentAudit, Excess, Row, audit, last_line
from sb3_pg.compare.page.tables import equality
from sb3_pg.compare.records import Episodes, Evaluations, Record
from sb3_pg.compare.traits import as_text
from sb3_pg.report import Table

STEPS = np.array([250.0, 500.0, 750.0, 1000.0])
FACTS: dict[str, Any] = {
    "n_envs": 8,
    "normalization": False,
    "network": {"layers": {"action_net": [2, 4]}, "parameters": 10},
    "eval_every": 250,
    "versions": {"torch": "2.1", "python": "3.11"},
    "machine": {"cpu": "abacus", "cores": 2, "host": "one"},
    "commit": "abc",
    "device": "cpu",
    "command": "sb3-pg compare",
    "defaults": {"gamma": 0.99},
}


def run(
    algorithm: str = "ppo",
    seed: int | None = 0,
    env_id: str = "X-v0",
    facts: dict[str, Any] | None = None,
    **changes: Any,
) -> Record:
    evaluations = Evaluations(STEPS, np.ones((4, 5)), deterministic=True)
    given: dict[str, Any] = {"budget": 1000, "evaluations": evaluations, "facts": FACTS | (facts or {})}
    return Record(algorithm, env_id, seed, Path("runs", algorithm, f"{env_id}_{seed}"), **given | changes)


def seeds(algorithm: str, n: int = 5, **changes: Any) -> list[Record]:
    return [run(algorithm, seed, **changes) for seed in range(n)]


def environment(found: Audit) -> EnvironmentAudit:
    (only,) = found.environments
    return only


def row(found: Audit, name: str) -> Row:
    (one,) = (row for row in environment(found).rows if row.name == name)
    return one


def test_all_equal() -> None:
    found = audit(seeds("ppo") + seeds("a2c"))
    assert found.warnings == ()
    assert not (found.missing or found.failed or found.not_finite or found.cut_short or found.remarks)
    env = environment(found)
    assert env.seeds == {"ppo": (0, 1, 2, 3, 4), "a2c": (0, 1, 2, 3, 4)}
    assert env.common_seeds == (0, 1, 2, 3, 4)
    assert not env.missing
    assert not env.differs
    assert not env.unclear
    assert {(row.name, row.kind, row.values["ppo"]) for row in env.equal} == {
        ("training steps", "setting", "1000"),
        ("environments", "setting", "8"),
        ("normalization", "setting", "no"),
        ("network", "setting", "10 parameters: action_net 2x4"),
        ("scores", "setting", "evaluations"),
        ("evaluated every", "setting", "250"),
        ("episodes of an evaluation", "setting", "5"),
        ("evaluation by", "setting", "its mode"),
        ("gamma", "hyperparameter", "0.99"),
        ("python", "version", "3.11"),
        ("torch", "version", "2.1"),
        ("cpu", "machine", "abacus"),
        ("cores", "machine", "2"),
        ("host", "machine", "one"),
        ("device", "origin", "cpu"),
        ("commit", "origin", "abc"),
        ("command", "origin", "sb3-pg compare"),
    }


def test_hyperparameters() -> None:
    """Those that differ; of a run that lists its defaults all are known, of another not."""
    found = audit(
        [
            run("ppo", settings={"clip_range": 0.2, "gamma": 0.9, "n_envs": 8, "n_timesteps": 1e3}),
            run("a2c", settings={"gamma": 0.90}),
            run("sac", settings={"gamma": 0.9}, facts={"defaults": None}),
        ]
    )
    assert row(found, "clip_range").values == {"ppo": "0.2", "a2c": "-", "sac": "not said"}
    assert row(found, "gamma").is_equal
    assert not row(found, "clip_range").is_equal
    assert {row.name for row in environment(found).rows if row.kind == "hyperparameter"} == {"clip_range", "gamma"}
    assert not any("clip_range" in warning for warning in found.warnings)
    found = audit([run("a2c", settings={"gamma": 0.9}), run("sac", settings={}, facts={"defaults": None})])
    assert [row.name for row in environment(found).unclear] == ["gamma"]


#: What is changed in the five runs of a2c, beside those of ppo and trpo -> a line.
LINES: list[tuple[dict[str, Any], str]] = [
    ({"budget": 2000, "error": "x"}, "mixed budgets: a2c 2000 steps; the others 1000 steps (X-v0)"),
    ({"facts": {"n_envs": 16}}, "not as many environments: a2c 16 at once; the others 8 at once (X-v0)"),
    (
        {"facts": {"normalization": {"norm_obs": True, "norm_reward": False}}},
        "not the same normalization: a2c norm_obs yes, norm_reward no; the others no (X-v0)",
    ),
    (
        {"facts": {"network": {"layers": {"action_net": [2, 5]}, "parameters": 12}}},
        "not the same network: a2c 12 parameters; the others 10 parameters (X-v0)",
    ),
    (
        {"facts": {"eval_every": 100}},
        "not evaluated equally often: a2c every 100 steps; the others every 250 steps (X-v0)",
    ),
    (
        {"evaluations": Evaluations(STEPS, np.ones((4, 3)), True)},
        "not evaluated on as many episodes: a2c 3 episodes; the others 5 episodes (X-v0)",
    ),
    (
        {"evaluations": Evaluations(STEPS, np.ones((4, 5)), False)},
        "not evaluated the same way: a2c sampled actions; the others its mode (X-v0)",
    ),
    (
        {"evaluations": None, "episodes": Episodes(STEPS, STEPS, STEPS)},
        "not scored on the same: a2c training episodes; the others evaluations (X-v0)",
    ),
    (
        {"facts": {"versions": {"torch": "2.2", "python": "3.11"}}},
        "not the same version of torch: a2c 2.2; the others 2.1 (X-v0)",
    ),
    ({"facts": {"commit": "abc-dirty"}}, "not the same commit: a2c abc-dirty; the others abc (X-v0)"),
    (
        {"facts": {"machine": {"cpu": "slide rule", "cores": 2, "host": "two"}}},
        "not the same processor, so seconds do not compare: a2c slide rule; the others abacus (X-v0)",
    ),
    ({"facts": {"device": "cuda"}}, "not the same device, so seconds do not compare: a2c cuda; the others cpu (X-v0)"),
]


@pytest.mark.parametrize(("changes", "line"), LINES, ids=[line.split(":")[0] for _, line in LINES])
def test_what_differs_in_words(changes: dict[str, Any], line: str) -> None:
    found = audit(seeds("ppo") + seeds("a2c", **changes) + seeds("trpo"))
    assert [warning for warning in found.warnings if "failed" not in warning and "fewer" not in warning] == [line]


def test_what_is_so_everywhere_is_said_once() -> None:
    changes: dict[str, Any] = {"facts": {"n_envs": 16}}
    some = [*seeds("ppo"), *seeds("a2c", **changes)]
    here = [dataclasses.replace(record, env_id="Y-v0") for record in some]
    assert audit(some + here).warnings == ("not as many environments: ppo 8 at once; a2c 16 at once",)
    assert audit(some + seeds("ppo", env_id="Y-v0") + seeds("a2c", env_id="Y-v0")).warnings == (
        "not as many environments: ppo 8 at once; a2c 16 at once (X-v0)",
    )


def test_what_differs_in_several_ways_is_told_of_the_first() -> None:
    runs = [
        one
        for env_id, n_envs in (("X-v0", 16), ("Y-v0", 16), ("Z-v0", 4))
        for one in (*seeds("ppo", env_id=env_id), *seeds("a2c", env_id=env_id, facts={"n_envs": n_envs}))
    ]
    assert audit(runs).warnings == (
        "not as many environments: ppo 8 at once; a2c 16 at once (X-v0, Y-v0), and in other ways on Z-v0",
    )


def test_of_a_normalization_what_is_not_the_same() -> None:
    some = {"norm_obs": True, "norm_reward": True, "gamma": 0.99, "clip_obs": 10.0}

    def said(**of: Any) -> tuple[str, ...]:
        return audit(
            [one for name, value in of.items() for one in seeds(name, facts={"normalization": value})]
        ).warnings

    what = "not the same normalization: "
    assert said(ppo=some, a2c=some | {"gamma": 0.9}) == (f"{what}ppo gamma 0.99; a2c gamma 0.9 (X-v0)",)
    assert said(ppo=some, a2c=False) == (f"{what}ppo norm_obs yes, norm_reward yes; a2c no (X-v0)",)


def test_few_seeds_of_many_are_counted() -> None:
    runs = [run(name, 0, env_id) for name in ("ppo", "a2c") for env_id in ("X-v0", "Y-v0", "Z-v0")]
    line = "fewer than 5 seeds: 6 of 6 pairs of an algorithm and an environment have 1"
    assert line in audit(runs).warnings
    assert f"{line} to 2" in audit([*runs, run("ppo", 1)]).warnings


def test_steps_beyond_the_budget() -> None:
    """Of runs that came to their end; much of it is worth a warning."""

    def over(algorithm: str, *ends: float, **changes: Any) -> list[Record]:
        return [
            run(algorithm, seed, evaluations=Evaluations(np.array([500.0, end]), np.ones((2, 5)), True), **changes)
            for seed, end in enumerate(ends)
        ]

    found = audit(
        [*over("ppo", 1000, 1024, 1040), *over("a2c", 1000), *over("sac", 1080, error="x"), *over("td3", 900)]
    )
    env = environment(found)
    assert env.excess == {"ppo": Excess(0, 40, 0.04), "a2c": Excess(0, 0, 0.0)}
    assert not any("beyond" in warning for warning in found.warnings)
    assert "trained beyond the budget: ppo on X-v0 by 8%" in audit(over("ppo", 1024, 1080)).warnings
    assert environment(audit(over("ppo", 1080, budget=None))).excess == {}
    beyond = [block.cells() for block in equality(found) if isinstance(block, Table) and "beyond" in block.headers[-1]]
    assert [row[-1] for row in beyond[0]] == ["0 to 40 (4%)", "0", "–", "–"]  # noqa: RUF001


def test_runs_of_one_contender_that_differ() -> None:
    """A setting and a hyperparameter, in one of five runs."""
    runs = [*seeds("ppo", 4), run("ppo", 4, facts={"n_envs": 1}, settings={"gamma": 0.5}), *seeds("a2c")]
    found = audit(runs)
    assert row(found, "gamma").values["ppo"] == "0.99 (seeds 0, 1, 2, 3); 0.5 (seed 4)"
    assert row(found, "gamma").is_mixed
    assert found.warnings == (
        "not as many environments: ppo 8 (seeds 0, 1, 2, 3); 1 (seed 4) at once; a2c 8 at once (X-v0)",
        "not the same gamma in all runs of one contender: ppo 0.99 (seeds 0, 1, 2, 3); 0.5 (seed 4); a2c 0.99 (X-v0)",
    )


def test_seeds() -> None:
    found = audit(
        [*seeds("ppo", 6), *(run("a2c", seed) for seed in (3, 4, 5, 6)), *(run("sac", None) for _ in range(5))]
    )
    env = environment(found)
    assert env.seeds["sac"] == (None,) * 5
    assert env.missing == {"ppo": (6,), "a2c": (0, 1, 2)}
    assert env.common_seeds == ()
    assert found.warnings == (
        "fewer than 5 seeds: a2c on X-v0 (4)",
        "not the same seeds on X-v0: ppo lacks 6; a2c lacks 0, 1, 2",
        "seeds are not known on X-v0: sac",
    )
    assert environment(audit([*seeds("ppo", 6), *(run("a2c", seed) for seed in (3, 4, 7))])).common_seeds == (3, 4)


def test_runs_that_need_a_look() -> None:
    traceback = 'Traceback (most recent call last):\n  File "x.py", line 1\nValueError: too bad\n\n'
    nan = Evaluations(STEPS, np.array([[1.0] * 5, [np.nan] * 5, [1.0] * 5, [np.inf, 1, 1, 1, 1]]))
    halfway = Evaluations(STEPS[:2], np.ones((2, 5)), True)
    runs = [
        run("ppo", 0, error=traceback, evaluations=None),
        run("ppo", 1, evaluations=nan),
        run("ppo", 2, evaluations=halfway, remarks=("progress.csv: its last line is half written, and left out",)),
        run("ppo", 3, evaluations=None),
        run("a2c", 0, env_id="Y-v0"),
    ]
    found = audit(runs)
    assert [(each.seed, each.what) for each in found.failed] == [(0, "ValueError: too bad")]
    assert [(each.seed, each.what) for each in found.not_finite] == [
        (1, "6 of 20 evaluation episodes have no finite return")
    ]
    assert [(each.seed, each.what) for each in found.cut_short] == [(2, "500 of 1000 steps")]
    assert [(each.seed, each.what[:12]) for each in found.remarks] == [(2, "progress.csv")]
    assert found.missing == (("a2c", "X-v0"), ("ppo", "Y-v0"))
    assert found.warnings[:6] == (
        "1 run failed: ppo on X-v0 seed 0",
        "1 run with returns that are no numbers: ppo on X-v0 seed 1",
        "1 run ended before the budget: ppo on X-v0 seed 2 (500 of 1000 steps)",
        "without any run: a2c on X-v0, ppo on Y-v0",
        "1 run without scores: ppo on X-v0 seed 3",
        "fewer than 5 seeds: ppo on X-v0 (2), a2c on Y-v0 (1)",
    )


@pytest.mark.parametrize(
    ("budget", "steps", "is_short"),
    [
        (1000, (250, 500, 750), False),
        (1000, (250, 500), True),
        (1100, (250, 500, 750, 1000), False),
        (1000, (1008,), False),
    ],
)
def test_cut_short(budget: int, steps: tuple[int, ...], is_short: bool) -> None:
    """Only where there should be another evaluation or episode: more than the widest gap is lacking."""
    evaluations = Evaluations(np.array(steps, dtype=float), np.ones((len(steps), 1)))
    found = audit([run(budget=budget, evaluations=evaluations)])
    assert bool(found.cut_short) == is_short
    progress = {"time/total_timesteps": np.array([np.nan, budget])}
    assert not audit([run(budget=budget, evaluations=evaluations, progress=progress)]).cut_short


def test_nothing_is_known() -> None:
    """Of a folder with scores only: that is said, and nothing is made up."""
    means = Evaluations(STEPS[:1], np.ones((1, 1)), are_means=True)
    bare = dataclasses.replace(run("mine", 0, budget=None, evaluations=means), facts={})
    found = audit([bare, run("ppo")])
    values = {row.name: row.values["mine"] for row in environment(found).rows}
    assert {name for name, value in values.items() if value != "not said"} == {"scores"}
    assert "nothing is known of the settings of mine (X-v0)" in found.warnings
    assert not any("not as many" in warning or "version" in warning for warning in found.warnings)


def test_no_records() -> None:
    found = audit([])
    assert not (found.environments or found.missing or found.warnings)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ((100000, 100000.0, 1e5, np.int64(100000)), "100000"),
        ((0.001, 1e-3, np.float64(0.001)), "0.001"),
        ((None, {}, []), "none"),
        ((True, np.True_), "yes"),
        (({"b": 1, "a": [64, 64.0]}, {"a": (64, 64), "b": 1.0}), "a [64, 64], b 1"),
        (("lin_0.1", " lin_0.1\n"), "lin_0.1"),
        ((float("nan"),), "nan"),
    ],
)
def test_equal_values_have_one_text(values: tuple[Any, ...], text: str) -> None:
    assert {as_text(value) for value in values} == {text}


def test_last_line() -> None:
    assert last_line("a\n  b\n\n") == "b"
    assert last_line("") == ""
