"""Peak memory of one update, measured in a process of its own."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing as mp
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

from stable_baselines3 import A2C, PPO
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from benchmarks.speed.timing import markdown, paragraph
from benchmarks.speed.workloads import N_STEPS, ONE, batched, warm_model
from sb3_pg import REINFORCE, VanillaPG

N_ENVS = 1024
N_ROWS = N_STEPS * N_ENVS
CLEAR, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
CONTENDERS: dict[str, tuple[type[OnPolicyAlgorithm], dict[str, Any]]] = {
    "PPO, one pass in one piece": (PPO, {"n_epochs": 1, "batch_size": N_ROWS}),
    "A2C": (A2C, {}),
    "VanillaPG, joint critic": (VanillaPG, {"value_learning_rate": None, "n_value_updates": 1}),
    "REINFORCE, in one piece": (REINFORCE, {"micro_batch_size": ONE}),
    "REINFORCE": (REINFORCE, {}),
}


class Meter:
    """The resident set of this process: its peak since the last :meth:`reset`, above what it was then, in MiB."""

    def __init__(self) -> None:
        self._before = 0.0

    def reset(self) -> None:
        """Give back what is free, and forget the peak."""
        gc.collect()
        with suppress(AttributeError):  # glibc's alone: else it would keep freed memory, which hides a new peak
            ctypes.CDLL(None).malloc_trim(0)
        CLEAR.write_text("5")
        self._before = self._mebibytes("VmRSS")

    def peak(self) -> float:
        """Since the last reset."""
        return self._mebibytes("VmHWM") - self._before

    @staticmethod
    def _mebibytes(name: str) -> float:
        found = re.search(rf"^{name}:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
        assert found is not None
        return int(found[1]) / 1024


def is_measurable() -> bool:
    """Whether the kernel resets the peak for this process: Linux does."""
    try:
        Meter().reset()
    except OSError:
        return False
    return True


def peaks(algorithm: type[OnPolicyAlgorithm], settings: dict[str, Any]) -> tuple[float, float]:
    """Of a third rollout: the peak of returns and advantages, and that of the update, in MiB."""
    model = warm_model(algorithm, batched(N_ENVS), **settings)
    meter, found = Meter(), {}

    def measured(name: str, function: Callable[..., None]) -> Callable[..., None]:
        def run(*args: Any, **kwargs: Any) -> None:
            meter.reset()
            function(*args, **kwargs)
            found[name] = meter.peak()

        return run

    buffer = model.rollout_buffer
    returns = measured("returns", buffer.compute_returns_and_advantage)
    with (
        patch.object(buffer, "compute_returns_and_advantage", returns),
        patch.object(model, "train", measured("update", model.train)),
    ):
        model.learn(2 * N_ROWS)
    return found["returns"], found["update"]


def memory_section() -> str:
    """A line a contender, each from a new process."""
    title = "## Memory of one update of 131,072 rows\n\n"
    if not is_measurable():
        return f"{title}Not measured: this needs Linux, which resets a process's peak memory.\n"
    rows = []
    for name, contender in CONTENDERS.items():
        with ProcessPoolExecutor(1, mp.get_context("spawn")) as pool:
            returns, update = pool.submit(peaks, *contender).result()
        rows.append((name, f"{update:.1f}", f"{returns:.1f}"))
    table = markdown(("MiB above what was resident just before, at most", "update", "returns and advantages"), rows)
    return f"{title}{table}\n" + paragraph(
        f"{N_ENVS:,} environments, {N_STEPS} steps each, the third iteration, each in a new process. SB3 lays its "
        "rollout out flat in the update, ours puts whole episodes together with the returns. Aim: less than PPO."
    )
