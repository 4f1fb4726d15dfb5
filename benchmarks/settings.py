"""Settings that benchmarks and tests share, chosen on seeds 101 to 104, which no reported result uses."""

from __future__ import annotations

from typing import Any

#: REINFORCE on CartPole-v1 with 8 environments. Undiscounted, the estimate is the gradient of what is scored.
CARTPOLE: dict[str, Any] = {"n_steps": 256, "gamma": 1.0}
