"""SIGTERM ends learn() at the next step with a checkpoint, and a second one the process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stable_baselines3.common.callbacks import BaseCallback

from sb3_pg import REINFORCE, ResumeCallback
from sb3_pg.checkpoints.store import newest
from tests.checkpoints.runs import Interrupt, Interrupted, Kind, learn, outcome

SMALL = Kind(REINFORCE, n_envs=2, arguments={"n_steps": 32}, steps=640)


def terminate() -> None:
    """SIGTERM, to this process."""
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(autouse=True)
def handler() -> Iterator[Any]:
    """The handler of SIGTERM, which must be there again."""
    before = signal.getsignal(signal.SIGTERM)
    yield before
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("at", [1, 50, 64, 200])
def test_the_run_ends_at_the_next_step_and_goes_on_exactly(at: int, tmp_path: Path) -> None:
    whole = learn(SMALL, tmp_path / "whole", resumable=False)
    stopped = learn(SMALL, tmp_path / "broken", more=[Interrupt(at, terminate)])
    assert stopped.num_timesteps <= 2 * (at + 1)
    broken = learn(SMALL, tmp_path / "broken")
    assert outcome(broken, tmp_path / "broken") == outcome(whole, tmp_path / "whole")


class TerminateBetween(BaseCallback):
    """SIGTERM between a rollout and its update."""

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        if self.num_timesteps == 320:
            terminate()


def test_between_rollouts_nothing_is_played_twice(tmp_path: Path) -> None:
    env, callback = SMALL.env(), ResumeCallback(tmp_path, every=10_000)
    SMALL.model(env).learn(640, callback=[callback, TerminateBetween()])
    found = newest(tmp_path)
    assert callback.preempted
    assert found is not None
    assert found.facts.steps == 320


def test_the_callback_says_whether_the_run_was_stopped(tmp_path: Path) -> None:
    callback, said = ResumeCallback(tmp_path, every=100), []
    SMALL.model(SMALL.env()).learn(640, callback=[callback, Interrupt(100, terminate)])
    said.append(callback.preempted)
    model = REINFORCE.resume(tmp_path, SMALL.env())
    model.learn(640, callback=callback)
    said.append(callback.preempted)
    assert said == [True, False]
    assert model.num_timesteps == 640


def test_the_handler_is_gone_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        learn(SMALL, tmp_path, more=[Interrupt(3)])


def test_in_another_thread_learning_goes_on_without_a_handler(tmp_path: Path) -> None:
    thread = threading.Thread(target=lambda: learn(SMALL, tmp_path))
    thread.start()
    thread.join()
    found = newest(tmp_path / "checkpoints")
    assert found is not None
    assert found.facts.steps == 640


SCRIPT = """
import os, signal, sys
from sb3_pg import ResumeCallback, VanillaPG
from tests.checkpoints.runs import Interrupt, Kind

def main():
    kind = Kind(VanillaPG, n_envs=2, backend="subproc", arguments={"n_steps": 32})
    model = kind.model(kind.env())
    model.learn(100_000, callback=[ResumeCallback(sys.argv[1], every=100), Interrupt(100, eval(sys.argv[2]))])
    print("learn() has returned")

if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize(
    ("does", "returns"),
    [
        # As Slurm does, to all processes of a job: those of the environments end at once
        ("lambda: os.killpg(0, signal.SIGTERM)", True),
        ("lambda: [os.kill(os.getpid(), signal.SIGTERM) for _ in range(2)]", False),
    ],
    ids=["all processes", "twice"],
)
def test_in_a_process_of_its_own(does: str, returns: bool, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), does],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        start_new_session=True,
        check=False,
    )
    assert ("learn() has returned" in done.stdout) == returns, done.stderr
    assert (done.returncode == 0) == returns, done.stderr
    assert newest(tmp_path) is not None
