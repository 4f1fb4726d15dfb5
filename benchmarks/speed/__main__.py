"""Time every workload, contenders in turn, and write ``docs/results/speed.md``: ``python -m benchmarks.speed``."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from benchmarks.runs import publish
from benchmarks.speed.compiled import compiled_section
from benchmarks.speed.halfcheetah import halfcheetah_section
from benchmarks.speed.machine import machine
from benchmarks.speed.memory import memory_section
from benchmarks.speed.profile import profile_sections
from benchmarks.speed.threads import threads_section
from benchmarks.speed.timing import N_REPEATS, markdown, paragraph, table
from benchmarks.speed.workloads import growth, workloads

TABLE = Path("docs/results/speed.md")
HEADER = (
    "Made by `make bench`, with nothing else running. Rates of the public `learn` of a new model with default "
    "hyper-parameters and callbacks, 64x64 tanh networks, n_steps=128, on the CPU; contenders in turn, "
    f"{N_REPEATS} rounds after a first. Limit: stepping, one pass of the actor a step, one update a rollout, each "
    "timed alone."
)


def growth_table() -> str:
    """REINFORCE's rate by the number of environments."""
    rates = {n: median(rate() for _ in range(3)) for n, rate in growth().items()}
    rows = [(f"{n:,}", f"{rate:,.0f}", f"{1e6 / rate:.2f}") for n, rate in rates.items()]
    header = ("environments", "steps per second", "microseconds per step")
    return f"## REINFORCE as environments grow (backend gymnasium)\n\n{markdown(header, rows)}"


def sections() -> Iterator[str]:
    """The page, part by part, each measured when its turn comes."""
    yield f"# Speed\n\n{paragraph(HEADER)}\n{paragraph(machine())}"
    yield from map(table, workloads())
    yield compiled_section()
    yield halfcheetah_section()
    yield growth_table()
    yield threads_section()
    yield from profile_sections()
    yield memory_section()


def main() -> int:
    """Time, print, write."""
    warnings.filterwarnings("ignore", message="No episode ended")
    publish("\n".join(sections()), TABLE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
