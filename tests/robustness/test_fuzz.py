"""The fuzz finds nothing, on some of its cases; ``python -m tests.robustness.fuzz`` tries all of them."""

from __future__ import annotations

import inspect

import pytest
import torch as th

from tests.helpers.models import ALGORITHMS
from tests.robustness import fuzz, oracle
from tests.robustness.values import VALUES


def test_nothing_is_left_out() -> None:
    """Every argument of every constructor and of learn() has its rule, and at least 40 values."""
    assert len(VALUES) >= 40
    for algorithm in ALGORITHMS:
        assert set(fuzz.arguments_of(algorithm)) <= oracle.ARGUMENTS.keys()
        assert set(inspect.signature(algorithm.learn).parameters) - {"self"} <= oracle.LEARN.keys()
        assert {name for kind, name, _ in fuzz.cases(algorithm) if kind == "entry"} == oracle.ENTRIES.keys()


def test_some_cases() -> None:
    counts = fuzz.fuzz(n_cases=250, seed=0)
    assert counts.faults == []
    assert counts.found["tried"] == 250 == counts.found["accepted"] + counts.found["refused"]


@pytest.mark.parametrize("label", VALUES)
def test_a_fault_is_found(label: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is checked, nonsense is accepted or fails in other words."""
    if oracle.is_sensible(ALGORITHMS[1], "argument", "vf_coef", VALUES[label]):
        return
    monkeypatch.setattr("sb3_pg.common.base_algorithm.check_numbers", lambda *_: None)
    counts = fuzz.Counts()
    algorithm = ALGORITHMS[1]
    with th.random.fork_rng():
        fuzz.run_case(counts, algorithm, "argument", "vf_coef", label)
    assert len(counts.faults) == 1
