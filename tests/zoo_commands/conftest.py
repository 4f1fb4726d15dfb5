"""The ``sb3-pg`` command as a user runs it: ``SB3_PG=path/to/sb3-pg``, by default the one beside this Python."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

COMMAND = Path(os.environ.get("SB3_PG", Path(sys.executable).with_name("sb3-pg"))).absolute()
#: Without a screen, and without a network: a hub that is asked says that it is offline.
ENVIRONMENT = os.environ | {
    "SDL_VIDEODRIVER": "dummy",
    "SDL_AUDIODRIVER": "dummy",
    "MPLBACKEND": "Agg",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
}

Result = subprocess.CompletedProcess[str]
Run = Callable[..., Result]


def words(line: str) -> list[str]:
    """A command line of ``sb3-pg``, split at blanks."""
    return [str(COMMAND), *line.split()]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a command line in an empty folder; it must succeed, unless told otherwise."""

    def call(line: str, *more: str, fails: bool = False) -> Result:
        result = subprocess.run(
            [*words(line), *more], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=300
        )
        assert (result.returncode != 0) == fails, f"{line}: {result.returncode}\n{result.stdout}\n{result.stderr}"
        return result

    return call


@pytest.fixture
def start(tmp_path: Path) -> Callable[[str], subprocess.Popen[str]]:
    """Start a command line in the same folder, and let it run.

    It listens to Ctrl-C as at a terminal: a shell that runs the tests in the background has SIGINT ignored, and that is
    handed on from process to process.
    """
    return lambda line: subprocess.Popen(
        words(line),
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
