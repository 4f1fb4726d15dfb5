"""What every test shares: one torch thread, property tests that draw the same examples on every run, an EnvPool."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch as th
from hypothesis import settings

from tests.helpers.models import TINY
from tests.helpers.vec_envs import FakePool

th.set_num_threads(1)

# The processes of SubprocVecEnv are forks of a server: what that has imported, none of them imports again
multiprocessing.set_forkserver_preload(["sb3_pg", "gymnasium.envs.classic_control"])

settings.register_profile("deterministic", derandomize=True, deadline=None, database=None, max_examples=60)
settings.load_profile("deterministic")


@pytest.fixture(autouse=True)
def shared_arguments_stay_as_they_are() -> Iterator[None]:
    """SB3's A2C writes its optimizer into the ``policy_kwargs`` that it is given: give it a copy."""
    yield
    assert TINY == {"net_arch": [8]}


@pytest.fixture
def fake_envpool(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ``envpool`` whose environments are :class:`FakePool`."""
    monkeypatch.setitem(sys.modules, "envpool", SimpleNamespace(make=FakePool))
