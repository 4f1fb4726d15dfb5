"""Environments in processes of their own, after a call that was broken off: what they still answer is nobody's."""

from __future__ import annotations

import os
import secrets
import struct
import sys
from collections.abc import Sequence
from multiprocessing.connection import wait
from multiprocessing.reduction import ForkingPickler
from typing import Any

from gymnasium.vector import AsyncVectorEnv
from gymnasium.vector.async_vector_env import AsyncState
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv, VecEnvWrapper

from sb3_pg.envs.vector import GymnasiumVecEnv

#: Questions asked, of two kinds in an order drawn anew: nothing that was asked before leaves their answers in a pipe.
N_QUESTIONS = 16
#: Bytes read at once.
CHUNK = 2**16
#: A question and its answer.
Exchange = tuple[object, object]
#: With each kind of vector environment, whatever the environments are.
TO_SUBPROC: tuple[Exchange, Exchange] = ((("has_attr", "step"), True), (("is_wrapped", int), False))
TO_ASYNC: tuple[Exchange, Exchange] = (
    (("_call", ("has_wrapper_attr", ("step",), {})), (True, True)),
    (("_check_spaces", ("same", None, None)), ((False, False), True)),
)


def drain(vec_env: VecEnv) -> None:
    """Read what environments in processes of their own still have to say to questions whose asker has gone.

    Ctrl-C may come when some have been sent an action and have not been heard, or have been heard in part. The next
    reset would take their answers for its own, and so would every step after it.

    :raises RuntimeError: if a process answers no more
    """
    while isinstance(vec_env, VecEnvWrapper):
        vec_env = vec_env.venv
    if isinstance(vec_env, SubprocVecEnv):
        _read_to_the_end(vec_env, vec_env.remotes, vec_env.processes, TO_SUBPROC)
        vec_env.waiting = False
    elif isinstance(vec_env, GymnasiumVecEnv) and isinstance(base := vec_env.vector_env.unwrapped, AsyncVectorEnv):
        _read_to_the_end(base, base.parent_pipes, base.processes, TO_ASYNC)
        base._state = AsyncState.DEFAULT


def _read_to_the_end(owner: object, pipes: Sequence[Any], processes: Sequence[Any], known: Sequence[Exchange]) -> None:
    """Ask questions with known answers, and read until these are what was read last.

    Byte by byte: of an answer that was being read when the interrupt came, the beginning may be gone.
    """
    drawn = [known[secrets.randbits(1)] for _ in range(N_QUESTIONS)]
    expected = b"".join(_framed(bytes(ForkingPickler.dumps(answer))) for _, answer in drawn)
    try:
        for pipe in pipes:
            for question, _ in drawn:
                pipe.send(question)
        for pipe, process in zip(pipes, processes, strict=True):
            read = b""
            while read != expected:
                read = (read + _some_bytes(pipe, process))[-len(expected) :]
    except Exception as error:
        dead = [number for number, process in enumerate(processes) if not process.is_alive()]
        raise RuntimeError(
            f"{type(owner).__name__} answers no more (the processes of environments {dead} have ended), as after a "
            "Ctrl-C that reached its processes too: make the environments anew, and give them to the model by set_env()"
        ) from error


def _framed(message: bytes) -> bytes:
    """A message as a pipe has it: after its length."""
    return struct.pack("!i", len(message)) + message


def _some_bytes(pipe: Any, process: Any) -> bytes:
    """What there is to read, at least one byte; it is waited for as long as there is somebody to write it.

    :raises EOFError: if there is nobody
    """
    if pipe not in wait([pipe, process.sentinel]):  # another process may hold the pipe's other end open
        raise EOFError("the process has ended")
    if sys.platform == "win32":  # whose pipes know where messages end
        return _framed(pipe.recv_bytes())
    if not (found := os.read(pipe.fileno(), CHUNK)):
        raise EOFError("the pipe was closed")
    return found
