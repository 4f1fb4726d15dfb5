"""What a second thread of PyTorch brings."""

from __future__ import annotations

from statistics import median

import torch as th

from benchmarks.speed.timing import Rate, interleaved, markdown, ratio
from benchmarks.speed.workloads import batched, dummy, learning, updating
from sb3_pg import REINFORCE

THREADS = (1, 2)


def with_threads(n_threads: int, rate: Rate) -> Rate:
    """The same, with that many threads while it lasts."""

    def limited() -> float:
        before = th.get_num_threads()
        th.set_num_threads(n_threads)
        try:
            return rate()
        finally:
            th.set_num_threads(before)

    return limited


def threads_section() -> str:
    """Rates by the number of threads, in turn."""
    rates = {
        "`learn`, SB3's make_vec_env, 8 environments": learning(REINFORCE, dummy(8), 40),
        "`learn`, backend gymnasium, 1,024 environments": learning(REINFORCE, batched(1024), 3),
        "one update of 131,072 rows": updating(REINFORCE),
    }
    rows = []
    for name, rate in rates.items():
        one, two = interleaved({str(n): with_threads(n, rate) for n in THREADS}).values()
        rows.append((name, f"{median(one):,.0f}", f"{median(two):,.0f}", ratio(two, one)))
    header = ("per second, median", "1 thread", "2 threads", "2 threads to 1, median (range)")
    return f"## REINFORCE by PyTorch's threads\n\n{markdown(header, rows)}"
