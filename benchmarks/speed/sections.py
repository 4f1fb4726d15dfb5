"""The parts of the page, each measured when its turn comes."""

from __future__ import annotations

import multiprocessing as mp
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from statistics import median

from benchmarks.speed.compiled import compiled_section
from benchmarks.speed.halfcheetah import halfcheetah_section
from benchmarks.speed.machine import machine
from benchmarks.speed.memory import memory_section
from benchmarks.speed.profile import profile_sections
from benchmarks.speed.threads import threads_section
from benchmarks.speed.timing import N_REPEATS, Workload, markdown, paragraph, table
from benchmarks.speed.workloads import WORKLOADS, growth

HEADER = (
    "Made by `make bench`, with nothing else running. Rates of the public `learn` of a new model with default "
    "hyper-parameters and callbacks, 64x64 tanh networks, n_steps=128, on the CPU; contenders in turn, "
    f"{N_REPEATS} rounds after a first, each section in a process of its own. Limit: stepping, one pass of the actor a "
    "step, one update a rollout, each timed alone."
)


def growth_table() -> str:
    """REINFORCE's rate by the number of environments."""
    rates = {n: median(rate() for _ in range(5)) for n, rate in growth().items()}
    rows = [(f"{n:,}", f"{rate:,.0f}", f"{1e6 / rate:.2f}") for n, rate in rates.items()]
    header = ("environments", "steps per second", "microseconds per step")
    return f"## REINFORCE as environments grow (backend gymnasium)\n\n{markdown(header, rows)}"


def workload_section(make: Callable[[], Workload]) -> str:
    """A workload's table."""
    return table(make())


def in_a_new_process(section: Callable[[], str]) -> str:
    """What the section says in a process of its own, since large batches feel what others left behind in memory."""
    with ProcessPoolExecutor(1, mp.get_context("spawn"), initializer=ignore_no_episode) as pool:
        return pool.submit(section).result()


def ignore_no_episode() -> None:
    """A rollout in which no episode ends is a rate as any other."""
    warnings.filterwarnings("ignore", message="No episode ended")


def sections() -> Iterator[str]:
    """The page, part by part, each measured when its turn comes."""
    yield f"# Speed\n\n{paragraph(HEADER)}\n{paragraph(machine())}"
    for make in WORKLOADS:
        yield in_a_new_process(partial(workload_section, make))
    for section in (compiled_section, halfcheetah_section, growth_table, threads_section, profile_sections):
        yield in_a_new_process(section)
    yield memory_section()
