"""An algorithm that can be interrupted: checkpoints at the edges of rollouts, and ``resume``."""

from __future__ import annotations

import os
import pathlib
import secrets
import warnings
from contextlib import suppress
from typing import TypeVar

import numpy as np
import torch as th
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.utils import check_for_correct_spaces, get_device

from sb3_pg.checkpoints.callback_state import callbacks
from sb3_pg.checkpoints.preemption import Preemption
from sb3_pg.checkpoints.resume_callback import ResumeCallback
from sb3_pg.checkpoints.snapshot import Resumed, Run
from sb3_pg.checkpoints.store import newest, read

SelfResumable = TypeVar("SelfResumable", bound="ResumableAlgorithm")

#: What a worker's end looks like from here.
BROKEN_PIPES = (EOFError, BrokenPipeError, ConnectionResetError)


class ResumableAlgorithm(OnPolicyAlgorithm):
    """An on-policy algorithm whose runs go on after their process was killed."""

    # So that what SB3's load() leaves as it is has a value
    _run_name: str | None = None
    _run: Run | None = None
    _resumed: Resumed | None = None
    _preemption: Preemption | None = None
    #: Rollouts of this call of ``learn()``.
    iterations = 0
    # Of them, those of the process before, if this call goes on with its
    _iterations_before: int | None = None
    _log_interval: int | None = None

    @classmethod
    def resume(
        cls: type[SelfResumable],
        path: str | os.PathLike[str],
        env: GymEnv | str,
        device: th.device | str | None = None,
    ) -> SelfResumable:
        """The model of the newest checkpoint that a :class:`~sb3_pg.ResumeCallback` wrote.

        Its next ``learn(total_timesteps)``, given what the run's was given, ends where that would have ended. What the
        checkpoint holds is run as code: resume from nobody's folders but your own.

        :param path: the folder of the checkpoints, or one of them
        :param env: made in the same way as the run's
        :param device: where the model goes; None: where it was, or the CPU
        :raises ValueError: if there is no checkpoint, or it is another algorithm's, or of another environment
        """
        place = pathlib.Path(path)
        checkpoint = read(place) if place.is_file() else newest(place)
        if checkpoint is None:
            raise ValueError(
                f"{path} has no checkpoint of a ResumeCallback that is whole: start with {cls.__name__}(...), or ask "
                "has_checkpoint(path) first"
            )
        if checkpoint.facts.algorithm != cls.__name__:
            name = checkpoint.facts.algorithm
            raise ValueError(f"{path} is a run of {name}, not of {cls.__name__}: write {name}.resume(path, env)")
        vec_env = cls._wrap_env(maybe_make_env(env, 0), 0)
        model = cls.__new__(cls)
        at = "cpu" if device is None and not th.cuda.is_available() else device and get_device(device)
        resumed = Resumed(checkpoint, model, vec_env, at)
        check_for_correct_spaces(vec_env, *(resumed.attributes[f"{name}_space"] for name in ("observation", "action")))
        if vec_env.num_envs != resumed.attributes["n_envs"]:
            raise ValueError(
                f"The run has {resumed.attributes['n_envs']} environments, and env has {vec_env.num_envs}: give it as "
                "many"
            )
        vars(model).update(resumed.attributes)
        model._resumed, model._custom_logger = resumed, False
        if at is not None:
            model.device = model.rollout_buffer.device = get_device(at)
        return model

    def learn(
        self: SelfResumable,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 1,
        tb_log_name: str = "OnPolicyAlgorithm",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfResumable:
        """As in SB3; a model that :meth:`resume` returned goes on with the call that was interrupted.

        :param reset_num_timesteps: False after that call had come to its end: begin another, as in SB3
        """
        self._log_interval = log_interval
        if self._resumed is not None and log_interval is not None:
            log_interval = 1  # dump_logs() knows which
        try:
            super().learn(
                total_timesteps,
                callback,
                log_interval,  # type: ignore[arg-type]  # None is "never"
                tb_log_name,
                reset_num_timesteps,
                progress_bar,
            )
            if self._resumed is not None:  # the run was at its end: its logs are, too, once they are put back
                self._put_in_place()
                self._hold_rollout()
            return self
        except BROKEN_PIPES:
            if self._preemption is None or not self._preemption.heard:
                raise
            self._last_obs = None  # the environments' processes were sent SIGTERM too
            return self
        except BaseException:  # Ctrl-C too
            self._write_snapshots()
            raise
        finally:
            if self._preemption is not None:
                self._preemption.close()
            self._preemption, self._run, self._iterations_before = None, None, None

    def dump_logs(self, iteration: int = 0) -> None:
        """As in SB3; of a run that goes on, the iterations before count."""
        if self._iterations_before is not None and iteration > 0:
            iteration += self._iterations_before
            if iteration % (self._log_interval or 1) != 0:
                return
        super().dump_logs(iteration)

    @property
    def is_at_edge(self) -> bool:
        """Whether the last rollout came to its end, so that there is something to go on from."""
        return self._last_obs is not None and self._resumed is None

    def _restart_episodes(self) -> None:
        """Begin all episodes anew, in a run whose environments cannot be put back."""
        self._reset_environments()

    def _reset_environments(self) -> None:
        """Reset the environments, as ``learn()`` does at first."""
        self._last_obs = self.env.reset()  # type: ignore[assignment, union-attr]
        self._last_episode_starts = np.ones((self.n_envs,), dtype=bool)

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        resumed, has_logger = self._resumed, self._custom_logger
        if resumed is not None:
            self._last_obs = None  # the environments are to be reset: they are new
        if resumed is not None and not has_logger and resumed.log_folder is not None and self.tensorboard_log:
            # SB3 would number another folder
            kinds = ["tensorboard", *(["stdout"] if self.verbose >= 1 else [])]
            self.set_logger(configure(resumed.log_folder, kinds))
        total, root = super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
        self._custom_logger = has_logger
        self.iterations = 0
        if resumed is not None:
            total = self._go_on(resumed, total_timesteps, reset_num_timesteps)
        writing = [one for one in callbacks(root).values() if isinstance(one, ResumeCallback)]
        if resumed is not None or writing:
            self._run_name = self._run_name or secrets.token_hex(8)
            self._run = Run(self, root, self._run_name)
            for one in writing:
                one.begin(self._run, None if resumed is None else self.num_timesteps)
        if writing:
            self._preemption = Preemption(writing)
            self._preemption.listen()
        return total, root

    def _go_on(self, resumed: Resumed, total_timesteps: int, reset_num_timesteps: bool) -> int:
        """Count from where the run was.

        :return: at which step it ends
        """
        was = resumed.attributes
        self.num_timesteps = steps = was["num_timesteps"]
        is_new_call = not reset_num_timesteps and steps >= was["_total_timesteps"]
        self._num_timesteps_at_start = steps if is_new_call else was["_num_timesteps_at_start"]
        self._total_timesteps = self._num_timesteps_at_start + total_timesteps
        if not is_new_call:
            self.iterations = self._iterations_before = resumed.iterations
            if self._total_timesteps != was["_total_timesteps"]:
                asked = was["_total_timesteps"] - was["_num_timesteps_at_start"]
                warnings.warn(
                    f"The run was asked for {asked} steps and goes on with learn({total_timesteps}): from here on its "
                    "schedules follow the new number.",
                    UserWarning,
                    stacklevel=5,
                )
        return self._total_timesteps

    def _at_edge(self) -> None:
        """Between an update and the next rollout: be where the run was that is resumed; take checkpoints."""
        if self._run is not None:
            self._put_in_place()
            for one in self._run.callbacks.values():
                if isinstance(one, ResumeCallback):
                    one.at_edge()
        self.iterations += 1

    def _write_snapshots(self) -> None:
        """Have what the callbacks have in memory on the disk, whatever else has gone wrong."""
        for one in self._run.callbacks.values() if self._run is not None else ():
            if isinstance(one, ResumeCallback):
                with suppress(Exception):
                    one.write()

    def _put_in_place(self) -> None:
        """Be where the run was that is resumed, if one is."""
        if self._resumed is not None and self._run is not None:
            resumed, self._resumed = self._resumed, None
            resumed.put_in_place(self._run, goes_on=self._iterations_before is not None)

    def _hold_rollout(self) -> None:
        """Have the next rollout begin with what the one knew that has not begun."""

    def _excluded_save_params(self) -> list[str]:
        own = ("_run_name", "_run", "_resumed", "_preemption", "iterations", "_iterations_before", "_log_interval")
        return [*super()._excluded_save_params(), *own]
