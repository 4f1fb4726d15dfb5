"""Time every workload, contenders in turn, and write ``docs/results/speed.md``: ``python -m benchmarks.speed``."""

from __future__ import annotations

import os
import platform
import sys
import warnings
from pathlib import Path
from statistics import median

import numpy as np
import stable_baselines3
import torch as th

from benchmarks.runs import publish
from benchmarks.speed.workloads import Rate, Workload, growth, workloads

N_REPEATS = 5
TABLE = Path("docs/results/speed.md")


def interleaved(contenders: dict[str, Rate]) -> dict[str, list[float]]:
    """The rates of all contenders, one after the other, as often as there are repeats; a first round is not counted."""
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for repeat in range(N_REPEATS + 1):
        for name, rate in contenders.items():
            value = rate()
            if repeat > 0:
                rates[name].append(value)
    return rates


def table(workload: Workload) -> str:
    """A line a contender: its rate, and its ratio to the first in the same round."""
    rates = interleaved(workload.contenders)
    first = next(iter(rates.values()))
    lines = ["| | per second, median | ratio, median (range) |", "|---|---|---|"]
    for name, own in rates.items():
        ratios = np.array(own) / np.array(first)
        lines.append(
            f"| {name} | {median(own):,.0f} | {np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f}) |"
        )
    aim = f"\nAim of the last line: {workload.aim}.\n" if workload.aim else ""
    return f"## {workload.name}\n\n" + "\n".join(lines) + f"\n{aim}"


def growth_table() -> str:
    """REINFORCE's rate by the number of environments."""
    rates = {n: median(rate() for _ in range(3)) for n, rate in growth().items()}
    lines = ["| environments | steps per second | microseconds per step |", "|---|---|---|"]
    lines += [f"| {n:,} | {rate:,.0f} | {1e6 / rate:.2f} |" for n, rate in rates.items()]
    return "## REINFORCE as environments grow (backend gymnasium)\n\n" + "\n".join(lines) + "\n"


def main() -> int:
    """Time, print, write."""
    warnings.filterwarnings("ignore", message="No episode ended")
    header = (
        "# Speed\n\nMade by `make bench`, with nothing else running. Rates of the public `learn`, default callbacks, "
        f"64x64 tanh networks,\nn_steps=128, on the CPU; contenders in turn, {N_REPEATS} rounds after a first. "
        f"{os.cpu_count()} cores ({platform.machine()}), {th.get_num_threads()}\nthreads, Python "
        f"{platform.python_version()}, PyTorch {th.__version__}, SB3 {stable_baselines3.__version__}. Limit: stepping, "
        "one pass of the actor a\nstep, one update a rollout, each timed alone.\n\n"
    )
    publish(header + "\n".join([*(table(one) for one in workloads()), growth_table()]), TABLE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
