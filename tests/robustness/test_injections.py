"""A few of the injections of :mod:`tests.robustness.injections`: of every kind, and every value."""

from __future__ import annotations

import pytest

from tests.robustness.injections import Injection, drawn, inject


@pytest.mark.parametrize("what", drawn(1, seed=7), ids=str)
def test_what_is_refused_leaves_no_trace(what: Injection) -> None:
    assert inject(what).faults == []
