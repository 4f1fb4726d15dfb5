"""The Zoo's experiment with what a user expects of it: refusals before anything is made, runs that are whole."""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import os
import shlex
import shutil
import signal
import sys
from pathlib import Path
from typing import Any, get_args

import optuna
from optuna.samplers import BaseSampler
from rl_zoo3 import exp_manager
from rl_zoo3.utils import ALGOS, get_class_by_name
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import CallbackList, CheckpointCallback, EvalCallback
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_pg.checkpoints import ResumeCallback
from sb3_pg.checkpoints.store import checkpoints_in, is_checkpoint
from sb3_pg.common.arguments import check_quota
from sb3_pg.common.base_algorithm import PolicyGradientAlgorithm
from sb3_pg.files import whole_file
from sb3_pg.zoo.configs import config_path, read_configs
from sb3_pg.zoo.errors import passes_through
from sb3_pg.zoo.registration import OURS
from sb3_pg.zoo.runs import (
    BestStatisticsCallback,
    WholeCheckpointCallback,
    find_statistics,
    has_past_batches,
    next_folder,
    replay_buffer_path,
)
from sb3_pg.zoo.study import check_storage, fail_abandoned, open_study, quiet_interrupts, sign_trials

Hyperparams = dict[str, Any]
#: The folder in a run's folder of the checkpoints that it goes on from.
RESUME = "resume"
#: What the Zoo takes a schedule for.
SCHEDULES = ("learning_rate", "clip_range", "clip_range_vf", "delta_std")


class ExperimentManager(exp_manager.ExperimentManager):
    """The Zoo's own, for our algorithms and the built-in ones; set as ``rl_zoo3.train.ExperimentManager``."""

    #: How the command was called, for ``command.txt``.
    command = sys.orig_argv

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._uuid: str = kwargs.get("uuid_str", "")
        self._made_folder = False
        if kwargs.get("config") is None and self.algo in OURS:
            self.config = str(config_path(self.algo))

    # --- hyperparameters -------------------------------------------------------------------------------------------

    def read_hyperparameters(self) -> tuple[Hyperparams, Hyperparams]:
        """As in the Zoo, with errors that say what is wrong in one line, and ``--trial-id 0`` is a trial."""
        if self.config.endswith((".yml", ".yaml")):
            read_configs(self.config)
        if self.trial_id is not None:
            trial = self._read_trial(self.trial_id)
            self.custom_hyperparams = trial | (self.custom_hyperparams or {})
            self.trial_id = None
        hyperparams, saved = super().read_hyperparameters()
        for key in ("policy", *(() if self.n_timesteps > 0 else ("n_timesteps",))):
            if key not in hyperparams:
                raise ValueError(f"{self.config} has no {key} for {self.env_name.gym_id}")
        return {"n_timesteps": self.n_timesteps} | hyperparams, saved

    def _read_trial(self, number: int) -> Hyperparams:
        if not (self.storage and self.study_name):
            raise ValueError("--trial-id is a trial of a study: give --storage and --study-name too")
        check_storage(self.storage)
        try:
            trial: Hyperparams = self.load_trial(self.storage, self.study_name, number)
        except (KeyError, IndexError) as error:
            raise ValueError(f"there is no trial {number} of a study {self.study_name!r} in {self.storage}") from error
        return trial

    def _preprocess_schedules(self, hyperparams: Hyperparams) -> Hyperparams:  # type: ignore[override]  # not static
        """``lin_0.1`` falls from 0.1 to 0 and stays there, for every argument that takes a schedule."""
        takes_schedule = _schedule_arguments(ALGOS[self.algo])
        for key, value in hyperparams.items():
            if not isinstance(value, str) or not (key in takes_schedule or value.startswith("lin_")):
                continue
            if key not in takes_schedule:
                raise ValueError(f"{key}: {value!r} is a schedule, and {ALGOS[self.algo].__name__} takes none there")
            kind, _, number = value.partition("_")
            try:
                start = float(number if kind == "lin" else "")
            except ValueError:
                instead = "write a number with a point, like 1.0e-3, or lin_0.001 for a line from there to 0"
                raise ValueError(f"{key}: {value!r} is text, not a number: {instead}") from None
            hyperparams[key] = LinearSchedule(start, 0.0, 1.0)
        return hyperparams

    def _preprocess_hyperparams(self, hyperparams: Hyperparams) -> Any:
        """As in the Zoo; the arguments of rollout buffers may be text too, and every name must be an argument."""
        for key in ("rollout_buffer_class", "rollout_buffer_kwargs"):
            value = hyperparams.get(key)
            if isinstance(value, str):
                is_path = key.endswith("class")
                # As the Zoo does for policy_kwargs: the file is the user's own
                hyperparams[key] = get_class_by_name(value) if is_path else eval(value)
        processed = super()._preprocess_hyperparams(hyperparams)
        # noise_type and noise_std become action_noise once the environment is there
        refuse_unknown(ALGOS[self.algo], processed[0].keys() - {"noise_type", "noise_std"})
        return processed

    # --- the run's folder ------------------------------------------------------------------------------------------

    def setup_experiment(self) -> tuple[BaseAlgorithm, Hyperparams] | None:
        """As in the Zoo; if it fails, it leaves nothing behind."""
        try:
            result: tuple[BaseAlgorithm, Hyperparams] | None = super().setup_experiment()
        except BaseException:
            if self._made_folder:
                shutil.rmtree(self.save_path, ignore_errors=True)
                _remove_empty(self.log_path, self.log_folder)
            raise
        return result

    def create_log_folder(self) -> None:
        """A folder of this run's own; that of the run that is resumed; none for a search, which trains no model."""
        if self.optimize_hyperparameters:
            return
        resumed = self._resumed_folder
        self.save_path = resumed or next_folder(self.log_path, self.env_name, self._uuid)
        self._made_folder = resumed is None
        self.params_path = f"{self.save_path}/{self.env_name}"
        os.makedirs(self.params_path, exist_ok=resumed is not None)

    def create_envs(self, n_envs: int, eval_env: bool = False, no_log: bool = False) -> VecEnv:
        """As in the Zoo; a search logs no episodes, since it has no folder."""
        env: VecEnv = super().create_envs(n_envs, eval_env, no_log or self.optimize_hyperparameters)
        return env

    def create_callbacks(self) -> None:
        """As in the Zoo; what belongs to a checkpoint, and to the best model, is saved beside it; a run can go on."""
        every = self.save_freq
        super().create_callbacks()
        if every > 0 and self.algo in OURS and not self.optimize_hyperparameters:
            self.callbacks.append(ResumeCallback(Path(self.save_path, RESUME), every))
        for index, callback in enumerate(self.callbacks):
            if type(callback) is CheckpointCallback:
                self.callbacks[index] = WholeCheckpointCallback(
                    callback.save_freq,
                    callback.save_path,
                    callback.name_prefix,
                    save_replay_buffer=self.save_replay_buffer,
                    verbose=callback.verbose,
                )
            elif type(callback) is EvalCallback and callback.callback_on_new_best is not None:
                both = CallbackList([callback.callback_on_new_best, BestStatisticsCallback(self.save_path)])
                both.parent = callback
                callback.callback_on_new_best = both

    def learn(self, model: BaseAlgorithm) -> None:
        """As in the Zoo; a run that SIGTERM stopped is no finished one, and says how it goes on.

        :raises SystemExit: for such a run
        """
        super().learn(model)
        for callback in self.callbacks:
            if isinstance(callback, ResumeCallback) and callback.preempted:
                newest = checkpoints_in(callback.folder)[-1]
                print(f"Stopped by SIGTERM. To go on, give the same arguments and: -i {shlex.quote(str(newest))}")
                raise SystemExit(128 + signal.SIGTERM)

    def save_trained_model(self, model: BaseAlgorithm) -> None:
        """As in the Zoo; past batches that an update uses again are part of the model."""
        self.save_replay_buffer |= has_past_batches(model)
        super().save_trained_model(model)

    def _save_config(self, saved_hyperparams: Hyperparams) -> None:
        if self._resumed_folder is not None:  # which has that of the run
            return
        super()._save_config(saved_hyperparams)
        # The Zoo joins the words by blanks, and a value with quotes or blanks is another one when it is read again
        with whole_file(Path(self.params_path, "command.txt")) as unfinished:
            unfinished.write_text(shlex.join(self.command))

    # --- going on from a model -------------------------------------------------------------------------------------

    @property
    def _resumed_folder(self) -> str | None:
        """The folder of the run whose checkpoint ``-i`` is: it goes on as if it had not been interrupted."""
        path = Path(self.trained_agent)
        return str(path.parents[1]) if self.continue_training and is_checkpoint(path) else None

    def _maybe_normalize(self, env: VecEnv, eval_env: bool) -> VecEnv:
        if not self.continue_training or self._resumed_folder is not None:
            unwrapped: VecEnv = super()._maybe_normalize(env, eval_env)
            return unwrapped
        statistics = find_statistics(Path(self.trained_agent), self.env_name)
        if statistics is None:
            if self.normalize:
                raise ValueError(
                    f"{self.trained_agent} learned behind VecNormalize, and its statistics are not beside it: give a "
                    "checkpoint that has them, or -params normalize:False for a model that was trained without"
                )
            return env
        print(f"Loading saved VecNormalize stats from {statistics}")
        loaded = VecNormalize.load(str(statistics), env)
        if eval_env:
            loaded.training = False
            loaded.norm_reward = False
        return loaded

    def _load_pretrained_agent(self, hyperparams: Hyperparams, env: VecEnv) -> BaseAlgorithm:
        if self._resumed_folder is not None:
            print(f"Going on from {self.trained_agent}")
            algorithm: Any = ALGOS[self.algo]
            if not issubclass(algorithm, PolicyGradientAlgorithm):
                raise ValueError(
                    f"{self.trained_agent} is a checkpoint of one of {', '.join(OURS)}: --algo names another"
                )
            resumed: BaseAlgorithm = algorithm.resume(self.trained_agent, env)
            return resumed
        model: BaseAlgorithm = super()._load_pretrained_agent(hyperparams, env)
        if isinstance(model, PolicyGradientAlgorithm):
            check_quota(model.n_episodes, model.n_envs)  # here too, where it is a line and leaves no folder
        history = replay_buffer_path(Path(self.trained_agent))
        if history.name != "replay_buffer.pkl" and history.is_file() and hasattr(model, "load_replay_buffer"):
            print(f"Loading {history}")
            model.load_replay_buffer(history, truncate_last_traj=self.truncate_last_trajectory)
        return model

    # --- search ----------------------------------------------------------------------------------------------------

    def _create_sampler(self, sampler_method: str) -> BaseSampler:
        return sign_trials(super()._create_sampler(sampler_method))

    def hyperparameters_optimization(self) -> None:
        """As in the Zoo; the study is there before the search, and without a finished trial there is no report."""
        if importlib.util.find_spec("pandas") is None:
            raise ValueError("the report of a search needs pandas: pip install 'sb3-pg[zoo]'")
        if self.storage is not None:
            study = open_study(self.storage, self.study_name)
            if study is not None and (abandoned := fail_abandoned(study)):
                print(f"Trials that a killed process left running, now failed: {abandoned}")
        quiet_interrupts()
        try:
            super().hyperparameters_optimization()
        except ValueError as error:
            if not passes_through(error, [vars(optuna.Study)["best_trial"].fget]):
                raise
            raise ValueError("no trial has finished, so there is nothing to report") from error
        finally:
            _remove_empty(self.log_path, self.log_folder)


def refuse_unknown(algorithm: type[BaseAlgorithm], names: Any) -> None:
    """Refuse hyperparameters that the algorithm does not have.

    :raises ValueError: with the nearest name of one that it has
    """
    parameters = inspect.signature(algorithm).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for name in sorted(names - parameters.keys()):
        near = difflib.get_close_matches(name, parameters.keys(), n=1)
        instead = f"did you mean {near[0]}?" if near else f"it has {', '.join(parameters)}"
        raise ValueError(f"{algorithm.__name__} has no hyperparameter {name}: {instead}")


def _schedule_arguments(algorithm: type[BaseAlgorithm]) -> set[str]:
    """The arguments that take a schedule: by their annotations, or because the Zoo says so."""
    parameters = inspect.signature(algorithm).parameters
    return {name for name, parameter in parameters.items() if name in SCHEDULES or _is_schedule(parameter.annotation)}


def _is_schedule(annotation: Any) -> bool:
    return "Schedule" in annotation if isinstance(annotation, str) else Schedule in get_args(annotation)


def _remove_empty(*folders: str) -> None:
    """Remove folders that nothing is in."""
    for folder in folders:
        try:
            os.rmdir(folder)
        except OSError:
            return
