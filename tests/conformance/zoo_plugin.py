"""A pytest plugin for rl_zoo3's own tests: our algorithms join its lists, and what cannot pass is expected to fail."""

from __future__ import annotations

import pytest
import rl_zoo3.utils

from tests.conformance.leftovers import ZOO
from tests.conformance.plugin import StaleLeftover, mark_leftovers

ALGOS = ("reinforce", "vanillapg", "offpolicyispg")


def pytest_configure(config: pytest.Config) -> None:
    """Without a network: the suite asks a hub for its agents as soon as it is imported."""
    config.addinivalue_line("markers", "slow: of the suite's own")
    rl_zoo3.utils.get_hf_trained_models = lambda *args, **kwargs: {}


@pytest.hookimpl(tryfirst=True)  # before pytest reads the list that the suite's own marks hold
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Add our algorithms to what the suite trains and searches."""
    experiments = getattr(metafunc.module, "experiments", None)
    if experiments is not None:
        experiments.update({f"{algo}-CartPole-v1": (algo, "CartPole-v1") for algo in ALGOS})


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, items: list[pytest.Function | StaleLeftover]) -> None:
    """Mark the leftovers."""
    functions = [item for item in items if isinstance(item, pytest.Function)]
    stale = mark_leftovers(functions, ZOO)
    items += [StaleLeftover.from_parent(session, name=name) for name in sorted(stale)]
