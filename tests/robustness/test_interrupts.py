"""After a Ctrl-C in the middle of anything the next ``learn()`` sees the environments' own transitions, no others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch as th
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_pg.envs import GymnasiumVecEnv
from sb3_pg.envs.drain import drain
from sb3_pg.update.undo import _Room
from tests.robustness.interrupts import N_ENVS, N_STEPS, Diaries, interrupt_lines, make_envs, make_model


class Interrupted:
    """A pipe that says KeyboardInterrupt in the ``n``-th sending or receiving of all that share the count, once.

    :param how: before it happens, after it, or with the beginning of an answer read
    """

    def __init__(self, pipe: Any, left: list[int], how: str) -> None:
        self.pipe, self.left, self.how = pipe, left, how

    def __getattr__(self, name: str) -> Any:
        return getattr(self.pipe, name)

    def _is_due(self) -> bool:
        self.left[0] -= 1
        return self.left[0] == 0

    def send(self, message: Any) -> None:
        is_due = self._is_due()
        if is_due and self.how != "after":
            raise KeyboardInterrupt
        self.pipe.send(message)
        if is_due:
            raise KeyboardInterrupt

    def recv(self) -> Any:
        is_due = self._is_due()
        if is_due and self.how == "in the middle":
            os.read(self.pipe.fileno(), 5)
        if is_due and self.how != "after":
            raise KeyboardInterrupt
        answer = self.pipe.recv()
        if is_due:
            raise KeyboardInterrupt
        return answer


@pytest.fixture(params=["subproc", "normalize", "async"])
def vec_env(request: pytest.FixtureRequest) -> Iterator[VecEnv]:
    env = make_envs(request.param)
    yield env
    drain(env)
    env.close()


def interrupt(vec_env: VecEnv, n: int, how: str) -> None:
    """Have the environments' ``n``-th message from now on be interrupted."""
    base: Any = vec_env.venv if isinstance(vec_env, VecNormalize) else vec_env
    owner, name = (base.vector_env, "parent_pipes") if isinstance(base, GymnasiumVecEnv) else (base, "remotes")
    left = [n]
    pipes = [getattr(pipe, "pipe", pipe) for pipe in getattr(owner, name)]
    setattr(owner, name, [Interrupted(pipe, left, how) for pipe in pipes])


#: Of the messages of a ``learn()``: some in which it asks what is left to read, then those of the reset, of a
#: callback's get_attr and env_method, and of steps, with resets of single environments among them.
ASKING = 16 * N_ENVS
MESSAGES = [5, ASKING, *range(ASKING + 1, ASKING + 55, 2)]


@pytest.mark.parametrize("how", ["before", "after", "in the middle"])
def test_interrupted_anywhere(how: str, vec_env: VecEnv) -> None:
    model = make_model("VanillaPG", vec_env)
    for n in MESSAGES:
        interrupt(vec_env, n, how)
        with pytest.raises(KeyboardInterrupt):
            model.learn(10**6, Diaries())
        diaries = Diaries()
        model.learn(N_STEPS * N_ENVS, diaries, reset_num_timesteps=False)
        assert (diaries.n_batches, diaries.n_wrong) == (1, 0), f"interrupted in message {n}"


def test_interrupted_between_two_runs(vec_env: VecEnv) -> None:
    """The model knows nothing of it."""
    model = make_model("VanillaPG", vec_env).learn(N_STEPS * N_ENVS)
    interrupt(vec_env, N_ENVS + 2, "after")
    with pytest.raises(KeyboardInterrupt):
        vec_env.get_attr("index")
    diaries = Diaries()
    model.learn(N_STEPS * N_ENVS, diaries)
    assert (diaries.n_batches, diaries.n_wrong) == (1, 0)


def test_nothing_is_left_to_read(vec_env: VecEnv) -> None:
    """Then draining changes nothing, in the middle of episodes either."""
    vec_env.reset()
    vec_env.step(vec_env.action_space.sample().repeat(N_ENVS))
    drain(vec_env)
    observations = vec_env.step(vec_env.action_space.sample().repeat(N_ENVS))[0]
    assert observations.tolist() == [[index, 0, 2] for index in range(N_ENVS)]  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["subproc", "async"])
def test_a_process_that_has_died(kind: str) -> None:
    """A Ctrl-C in a terminal reaches the environments' processes too, and ends them."""
    env: Any = make_envs(kind)
    model = make_model("VanillaPG", env).learn(N_STEPS * N_ENVS)
    processes = (env.vector_env if kind == "async" else env).processes
    processes[1].kill()
    processes[1].join()
    with pytest.raises(RuntimeError, match=r"\w+ answers no more .*environments \[1\].*set_env\(\)"):
        model.learn(N_STEPS * N_ENVS)
    fresh = make_envs(kind)
    model.set_env(fresh)
    diaries = Diaries()
    model.learn(N_STEPS * N_ENVS, diaries)
    assert diaries.n_wrong == 0
    fresh.close()
    for process in processes:
        process.kill()


def test_random_moments() -> None:
    """Real signals in a process of its own; the command with more runs counts more."""
    command = [sys.executable, "-m", "tests.robustness.interrupts", "--runs", "8", "--algorithm", "OffPolicyISPG"]
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    lines = [json.loads(line) for line in found.stdout.splitlines()]
    assert found.returncode == 0, found.stdout + found.stderr
    assert [line["kind"] for line in lines] == ["dummy", "subproc", "normalize", "async"]
    assert all(line["batches"] == 16 and line["wrong"] == 0 for line in lines)


def test_before_random_lines() -> None:
    """The command with more runs has more of them."""
    counts = interrupt_lines("OffPolicyISPG", "dummy", n_runs=50, seed=0)
    assert (counts["batches"], counts["wrong"], counts["errors"]) == (100, 0, {})
    assert sum(counts["interrupted in"].values()) >= 45  # some runs may have fewer lines


def test_a_room_for_copies_is_whole_or_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken off while it is made, it is made anew: half of one would not fit any tensors again."""
    room, tensors = _Room(), [th.arange(3.0), th.ones(2, 2)]

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(th, "zeros", interrupted)
        room.fill(tensors)
    room.fill(tensors)
    assert all(map(th.equal, room.copies, tensors))
    assert sum(map(float, room.squares())) == 9
