"""The folder of a run: models, each with the normalisation statistics of its moment, written and found again."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

from huggingface_sb3 import EnvironmentName
from rl_zoo3.utils import get_model_path
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from stable_baselines3.common.vec_env import VecNormalize

from sb3_pg.files import whole_file

CHECKPOINT = "rl_model"
BEST = "best_model"


def statistics_path(model: Path, env_name: str) -> Path:
    """Where the VecNormalize statistics of a model's moment are: beside a checkpoint and the best model, under SB3's
    names for them, and in the folder of the environment for the final one.
    """
    return _beside(model, "vecnormalize") or model.parent / env_name / "vecnormalize.pkl"


def replay_buffer_path(model: Path) -> Path:
    """Where the replay buffer, or the past batches, of a model's moment are."""
    return _beside(model, "replay_buffer") or model.parent / "replay_buffer.pkl"


def _beside(model: Path, what: str) -> Path | None:
    if model.stem.startswith(f"{CHECKPOINT}_") and model.stem.endswith("_steps"):
        return model.with_name(model.stem.replace(CHECKPOINT, f"{CHECKPOINT}_{what}", 1) + ".pkl")
    if model.stem == BEST:
        return model.with_name(f"{BEST}_{what}.pkl")
    return None


def find_statistics(model: Path, env_name: str) -> Path | None:
    """The statistics to go on with, those of the run's end (as the Zoo itself has them) if the moment's are missing."""
    own, final = statistics_path(model, env_name), model.parent / env_name / "vecnormalize.pkl"
    if own.is_file() or not final.is_file():
        return own if own.is_file() else None
    print(f"{own.name} is missing: taking the statistics of another moment of this run, {final}")
    return final


def save_whole(save: Any, path: Path) -> None:
    """Call ``save(path)`` so that a file by that name is there whole or not at all."""
    with whole_file(path) as unfinished:
        save(str(unfinished))


def has_replay_buffer(model: BaseAlgorithm) -> bool:
    """Whether there is something that ``--save-replay-buffer`` is about."""
    return getattr(model, "replay_buffer", None) is not None


def has_past_batches(model: BaseAlgorithm) -> bool:
    """Whether a model goes on with past batches: few, so that they are always saved with it."""
    return getattr(model, "n_reused_batches", 0) > 0


class WholeCheckpointCallback(CheckpointCallback):
    """SB3's checkpoints, whole: the model comes last, so that one that is there has all that belongs to it."""

    def _on_step(self) -> bool:
        if self.n_calls % self.save_freq == 0:
            model = Path(self._checkpoint_path(extension="zip"))
            normalizer = self.model.get_vec_normalize_env()
            if normalizer is not None:
                save_whole(normalizer.save, statistics_path(model, ""))
            if (self.save_replay_buffer and has_replay_buffer(self.model)) or has_past_batches(self.model):
                save_whole(self.model.save_replay_buffer, replay_buffer_path(model))  # type: ignore[attr-defined]
            save_whole(self.model.save, model)
            if self.verbose >= 2:
                print(f"Saving model checkpoint to {model}")
        return True


class BestStatisticsCallback(BaseCallback):
    """Keeps the statistics that the best model was evaluated with beside it."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = folder

    def _on_step(self) -> bool:
        normalizer = self.model.get_vec_normalize_env()
        if isinstance(normalizer, VecNormalize):
            save_whole(normalizer.save, statistics_path(Path(self.folder, f"{BEST}.zip"), ""))
        return True


def next_folder(log_path: str, env_name: str, suffix: str) -> str:
    """Make the folder of a new run, under a number that nobody else has, and return its path."""
    number = max(run_numbers(log_path, env_name), default=0)
    while True:
        number += 1
        folder = os.path.join(log_path, f"{env_name}_{number}{suffix}")
        try:
            os.makedirs(folder, exist_ok=False)
        except FileExistsError:
            continue
        return folder


def run_numbers(log_path: str, env_name: str) -> list[int]:
    """The numbers of the runs on an environment, ascending."""
    if not os.path.isdir(log_path):
        return []
    ends = (
        name.removeprefix(f"{env_name}_").partition("_")[0]
        for name in os.listdir(log_path)
        if name.startswith(f"{env_name}_")
    )
    return sorted({int(end) for end in ends if end.isdigit()})


def find_model(
    exp_id: int,
    folder: str,
    algo: str,
    env_name: EnvironmentName,
    load_best: bool = False,
    load_checkpoint: str | None = None,
    load_last_checkpoint: bool = False,
) -> tuple[str, str, str]:
    """As the Zoo's ``get_model_path``, but the latest run is the latest that has the model asked for, and where there
    are no runs of an algorithm, those of its variant in a comparison are taken (``reinforce:baseline=none``).

    :return: a name, the path of the model, the folder of its run
    :raises ValueError: if there is none, saying what there is
    """
    wanted = (load_best, load_checkpoint, load_last_checkpoint)
    folder, algo = _folder_and_name(folder, algo, env_name)
    log_path = os.path.join(folder, algo)
    if exp_id != 0:
        if exp_id > 0 and not os.path.isdir(os.path.join(log_path, f"{env_name}_{exp_id}")):
            raise ValueError(f"there is no run {env_name}_{exp_id} in {log_path}: {_runs_there(log_path, env_name)}")
        return _model_of(exp_id, folder, algo, env_name, wanted)
    numbers = run_numbers(log_path, env_name)
    if not numbers:
        raise ValueError(f"there is no run on {env_name} in {log_path}: {_runs_there(log_path, env_name)}")
    for number in reversed(numbers):
        if not os.path.isdir(os.path.join(log_path, f"{env_name}_{number}")):
            continue  # with a unique id, which --exp-id cannot name either
        try:
            found = _model_of(number, folder, algo, env_name, wanted)
        except ValueError as error:
            print(f"Run {number}: {error}")
            continue
        print(f"Loading latest experiment with this model, id={number}")
        return found
    checkpoints = "" if load_last_checkpoint else "; --load-last-checkpoint takes what a run that was cut short left"
    raise ValueError(f"no run on {env_name} in {log_path} has the model asked for{checkpoints}")


def _folder_and_name(folder: str, algo: str, env_name: EnvironmentName) -> tuple[str, str]:
    """Where the runs are, and what their folder is called: as the algorithm, or as its only variant on a task.

    :raises ValueError: if there is none, or more than one variant
    """
    if os.path.isdir(os.path.join(folder, algo)):
        return folder, algo
    given = Path(folder).absolute()
    if _is_variant(given, algo):
        return str(given.parent), given.name
    variants = sorted(path for path in given.glob("*") if _is_variant(path, algo) and run_numbers(str(path), env_name))
    if len(variants) > 1:
        names = ", ".join(path.name for path in variants)
        example = shlex.quote(os.path.join(folder, variants[0].name))
        raise ValueError(f"{folder} has {len(variants)} variants of {algo}, {names}: write which, like -f {example}")
    if not variants:
        looked = os.path.join(folder, algo)
        raise ValueError(f"there is no folder {looked}: runs of {algo} are looked for there (-f names another)")
    print(f"There are no runs of {algo} as such in {folder}: taking its variant {variants[0].name}")
    return folder, variants[0].name


def _is_variant(path: Path, algo: str) -> bool:
    """Whether a comparison has such a folder for an algorithm with other hyperparameters than its configuration's."""
    return path.name.startswith(f"{algo}:") and path.is_dir()


def _model_of(number: int, folder: str, algo: str, env_name: EnvironmentName, wanted: Any) -> tuple[str, str, str]:
    found: tuple[str, str, str] = get_model_path(number, folder, algo, env_name, *wanted)
    return found


def _runs_there(log_path: str, env_name: str) -> str:
    there = sorted(name for name in os.listdir(log_path) if os.path.isdir(os.path.join(log_path, name)))
    return f"it has {', '.join(there)}" if there else "it is empty"
