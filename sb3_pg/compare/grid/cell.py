"""One cell of a grid: an algorithm, an environment, a seed, trained and evaluated into a folder of its own."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import sys
import tempfile
import threading
import traceback
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from copy import deepcopy
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch as th
from rl_zoo3.utils import ALGOS
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.utils import get_device, set_random_seed
from stable_baselines3.common.vec_env import VecEnv

from sb3_pg.compare.grid import facts
from sb3_pg.compare.grid.contenders import algorithm_class
from sb3_pg.compare.grid.evaluation import STEPS_FILE, Evaluations, random_streams_kept
from sb3_pg.compare.grid.folders import locked, whole_folder
from sb3_pg.compare.grid.questions import CELL_FILE, Cell, CellResult, Job, finished, result
from sb3_pg.zoo.errors import one_line
from sb3_pg.zoo.experiment import ExperimentManager, Hyperparams

#: A process trains one cell at a time: two would draw from the same generators.
_BUSY = threading.Lock()


class Orphaned(BaseException):
    """The grid that a worker belongs to is no more."""


class UntilOrphaned(BaseCallback):
    """Breaks the training off once the process that started this worker is dead."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self._job = job

    def _on_step(self) -> bool:
        _refuse_orphan(self._job)
        return True


def _refuse_orphan(job: Job) -> None:
    if job.parent not in (0, os.getpid(), os.getppid()):
        raise Orphaned


class CellExperiment(ExperimentManager):
    """The Zoo's experiment with given hyperparameters, in a given folder, without evaluations of its own."""

    def __init__(self, cell: Cell, folder: Path, command: tuple[str, ...] = ()) -> None:
        ALGOS.setdefault(cell.algorithm, algorithm_class(cell.algorithm))
        arguments = {"algo": cell.algorithm, "env": cell.env_id, "seed": cell.seed, "device": cell.device}
        arguments |= {"n_timesteps": cell.budget, "eval_freq": cell.eval_every, "eval_episodes": cell.n_eval_episodes}
        super().__init__(
            argparse.Namespace(**arguments, env_kwargs=None),
            cell.algorithm,
            cell.env_id,
            str(folder),
            n_timesteps=cell.budget,
            eval_freq=-1,
            seed=cell.seed,
            verbose=0,
            device=cell.device,
        )
        self.cell, self.folder, self.command = cell, folder, list(command)
        self._envs: list[VecEnv] = []

    def read_hyperparameters(self) -> tuple[Hyperparams, Hyperparams]:
        """Those of the cell."""
        hyperparams = deepcopy(self.cell.settings) | {"n_timesteps": self.cell.budget}
        return hyperparams, OrderedDict((key, deepcopy(hyperparams[key])) for key in sorted(hyperparams))

    def create_log_folder(self) -> None:
        """The given one."""
        self.save_path = str(self.folder)
        self.params_path = str(self.folder / self.env_name)
        os.makedirs(self.params_path)

    def create_envs(self, n_envs: int, eval_env: bool = False, no_log: bool = False) -> VecEnv:
        """As in the Zoo."""
        self._envs.append(super().create_envs(n_envs, eval_env, no_log))
        return self._envs[-1]

    def make_model(self) -> BaseAlgorithm:
        """A model that has not learned yet, with its environments; these are closed where there is none."""
        try:
            made = self.setup_experiment()
        except BaseException:
            for env in self._envs:
                env.close()
            raise
        if made is None:
            raise RuntimeError("the Zoo has set up a search")
        return made[0]


def check_cell(cell: Cell) -> None:
    """Set a cell up and throw it away, so that what cannot be trained is known before anything is.

    :raises ValueError: in one line, whatever is wrong
    """
    with tempfile.TemporaryDirectory() as folder, _quiet(), random_streams_kept(get_device(cell.device)):
        try:
            _close(CellExperiment(cell, Path(folder)).make_model())
        except Exception as error:
            raise ValueError(f"{cell.label} on {cell.env_id}: {one_line(error)}") from error


def train_cell(job: Job, wait: bool = False) -> CellResult | None:
    """Train a cell into its place, unless it is there; if it fails, its place says why.

    :param wait: wait for another process that is training it; if not, return None then
    :raises ValueError: if something else lies in its place
    :raises RuntimeError: if this process is training another cell
    """
    if not _BUSY.acquire(blocking=False):
        raise RuntimeError("cells need a process each: start workers of one thread (dask worker --nthreads 1)")
    n_threads = th.get_num_threads()
    try:
        _refuse_orphan(job)
        th.set_num_threads(1)
        with locked(job.place, wait) as is_mine:
            return (finished(job) or _train_into_place(job)) if is_mine else None
    except Orphaned:
        # There is nobody left to answer to, and a worker would wait for minutes to be asked again
        os._exit(1)
    finally:
        th.set_num_threads(n_threads)
        _BUSY.release()


def _train_into_place(job: Job) -> CellResult:
    with whole_folder(job.place) as folder:
        found = _train(job, folder)
        (folder / STEPS_FILE).unlink(missing_ok=True)
        (folder / CELL_FILE).write_text(json.dumps(job.cell.asked | found, indent=1))
    return result(job, found["error"], is_new=True)


def _train(job: Job, folder: Path) -> dict[str, Any]:
    """Train and evaluate: what is known afterwards, an error's traceback included."""
    found: dict[str, Any] = {"command": list(job.command), "commit": job.commit, "started": _now(), "error": ""}
    with _quiet() as warned, random_streams_kept(get_device(job.cell.device)):
        try:
            _learn(job, folder, found)
        except Exception:
            found["error"] = traceback.format_exc()
    # Gymnasium's are in colour
    texts = [re.sub(r"\x1b\[\d*m", "", " ".join(str(warning.message).split())) for warning in warned]
    found |= {"finished": _now(), "remarks": list(dict.fromkeys([*job.remarks, *texts]))}
    return found | {"versions": facts.versions(), "machine": facts.machine()}


def _learn(job: Job, folder: Path, found: dict[str, Any]) -> None:
    """Train and evaluate; fills ``found`` as far as it gets."""
    cell = job.cell
    if job.cwd and job.cwd not in sys.path:
        sys.path.append(job.cwd)
    if job.module:
        importlib.import_module(job.module)
    set_random_seed(cell.seed)
    experiment = CellExperiment(cell, folder, job.command)
    model = experiment.make_model()
    found |= facts.of_model(model, cell.settings)
    model.set_logger(configure(str(folder), ["csv"]))
    with random_streams_kept(model.device):
        eval_env = experiment.create_envs(cell.n_eval_episodes, eval_env=True)
    evaluations = Evaluations(model, eval_env, cell.eval_every, cell.budget, folder, cell.deterministic)
    try:
        model.learn(cell.budget, callback=[*experiment.callbacks, evaluations, UntilOrphaned(job)])
        evaluations.finish()
    finally:
        found |= evaluations.facts()
        model.logger.close()
        _close(model)
        eval_env.close()
    _refuse_nonfinite(model)
    experiment.save_trained_model(model)


def _refuse_nonfinite(model: BaseAlgorithm) -> None:
    """Refuse what plays on with parameters that are no numbers: a greedy policy does not notice."""
    for name, parameter in model.policy.named_parameters():
        if not bool(th.isfinite(parameter).all()):
            raise FloatingPointError(f"after {model.num_timesteps} steps {name} of the policy is not finite")


def _close(model: BaseAlgorithm) -> None:
    env = model.get_env()
    if env is not None:
        env.close()


@contextmanager
def _quiet() -> Iterator[list[warnings.WarningMessage]]:
    """Nothing is printed; the context's value are the warnings, each once."""
    with warnings.catch_warnings(record=True) as warned, open(os.devnull, "w") as nothing, redirect_stdout(nothing):
        warnings.simplefilter("default")
        for of_developers in (DeprecationWarning, PendingDeprecationWarning, FutureWarning, ResourceWarning):
            warnings.simplefilter("ignore", of_developers)
        yield warned


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
