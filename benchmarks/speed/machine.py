"""What the timings were made on."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

import gymnasium
import numpy as np
import stable_baselines3
import torch as th


def machine() -> str:
    """The processor, its memory, and the versions of what does the work."""
    versions = {
        "Python": platform.python_version(),
        "NumPy": np.__version__,
        "PyTorch": th.__version__,
        "SB3": stable_baselines3.__version__,
        "Gymnasium": gymnasium.__version__,
    }
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    hardware = (
        f"{processor()} ({platform.machine()}, PyTorch uses {th.backends.cpu.get_cpu_capability()}), "
        f"{os.cpu_count()} cores, {th.get_num_threads()} threads, {memory:.0f} GiB of memory"
    )
    return f"{hardware}; {', '.join(f'{name} {version}' for name, version in versions.items())}."


def processor() -> str:
    """The processor's name, as far as it is known."""
    path = Path("/proc/cpuinfo")
    model = re.search(r"^model name\s*:\s*(.+)$", path.read_text(), re.MULTILINE) if path.exists() else None
    return model[1] if model else platform.processor()
