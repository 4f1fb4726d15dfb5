"""Comparisons of algorithms: runs, scores, statistics, one report. ``pip install "sb3-pg[compare]"``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sb3_pg.compare.comparison import Comparison, compare, compare_runs

__all__ = ["Comparison", "compare", "compare_runs"]


def __getattr__(name: str) -> Any:
    # What reads runs need not wait for what trains them: rl_zoo3 takes seconds, and changes Gymnasium's TimeLimit
    if name in __all__:
        from sb3_pg.compare import comparison

        return getattr(comparison, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
