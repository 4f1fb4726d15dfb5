"""The commands of this folder about files, on a few of them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

COMMANDS = {
    "tests.robustness.killed_saves": ("--kills", "2", "--full", "1", "--width", "300"),
    "tests.robustness.damaged_files": ("--files", "8", "--seed", "1"),
}


@pytest.mark.parametrize("module", COMMANDS)
@pytest.mark.skipif(sys.platform != "linux", reason="the children are forks, with limits of Linux's")
def test_nothing_is_lost(module: str) -> None:
    command = [sys.executable, "-m", module, *COMMANDS[module]]
    run = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert run.returncode == 0, run.stdout + run.stderr
