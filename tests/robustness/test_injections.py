"""Some of the injections of :mod:`tests.robustness.injections`: every kind, every value, behind every wrapper."""

from __future__ import annotations

import pytest

from sb3_pg import REINFORCE, OffPolicyISPG, VanillaPG
from tests.robustness.injections import WRAPPERS, Injection, drawn, inject

EVERYWHERE = [
    Injection(kind, value, (REINFORCE, VanillaPG)[place % 2], wrapper=wrapper, n_envs=(1, 8)[place // 2 % 2])
    for wrapper in WRAPPERS
    for place, (kind, value) in enumerate(
        [("observation", "nan"), ("observation", "1e38"), ("reward", "inf"), ("reset", "nan")]
    )
]

#: Whose step a line search undoes.
HALVED = [
    Injection(
        "rate set in a callback", value, OffPolicyISPG, settings={"target_kl": 0.01, "kl_constraint": "backtrack"}
    )
    for value in ("nan", "-inf")
]


@pytest.mark.parametrize("what", [*drawn(1, seed=7), *EVERYWHERE, *HALVED], ids=str)
def test_what_is_refused_leaves_no_trace(what: Injection) -> None:
    assert inject(what).faults == []
