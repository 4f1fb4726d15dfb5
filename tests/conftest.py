"""What every test shares: one torch thread, and property tests that draw the same examples on every run."""

from __future__ import annotations

import torch as th
from hypothesis import settings

th.set_num_threads(1)

settings.register_profile("deterministic", derandomize=True, deadline=None, database=None, max_examples=60)
settings.load_profile("deterministic")
