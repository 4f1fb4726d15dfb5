"""The storage of a search, shared by processes that come, go and are killed."""

from __future__ import annotations

import logging
import os
import socket
import time
from functools import partial
from pathlib import Path

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, JournalStorage, get_storage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

#: Under this name a trial keeps which process runs it.
WORKER = "worker"
#: Seconds before the one more try of a process that met another on its way into a new database.
PAUSE = 1.0


def open_study(storage: str, study_name: str | None) -> optuna.Study | None:
    """Make sure that a storage, and the study in it, are there before a search begins.

    Two processes that create the same SQLite tables at once get in each other's way: one of them tries once more.

    :return: the study, None without a name (the search will invent one)
    :raises ValueError: if the storage cannot be opened
    """
    for is_last in (False, True):
        try:
            opened = _open_storage(storage)
            if study_name is None:
                return None
            return optuna.create_study(storage=opened, study_name=study_name, load_if_exists=True, direction="maximize")
        except Exception as error:
            if is_last:
                raise ValueError(f"--storage {storage} cannot be opened: {error}") from error
            time.sleep(PAUSE)
    return None


def check_storage(storage: str) -> None:
    """Refuse a file to read a study from that is not there; opening it would make an empty one.

    :raises ValueError: naming it
    """
    path = storage.removeprefix("sqlite:///")
    is_file = path != storage or storage.endswith(".log")
    if is_file and not Path(path).is_file():
        raise ValueError(f"--storage {storage}: there is no file {path}")


def _open_storage(storage: str) -> BaseStorage:
    if storage.endswith(".log"):
        Path(storage).parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(storage))
    return get_storage(storage)


def quiet_interrupts() -> None:
    """Have Optuna report a trial that Ctrl-C ended without a traceback: nothing went wrong."""
    logging.getLogger(optuna.study._optimize.__name__).addFilter(_without_interrupt)


def _without_interrupt(record: logging.LogRecord) -> bool:
    if record.exc_info and record.exc_info[0] is KeyboardInterrupt:
        record.exc_info = None
    return True


def sign_trials(sampler: BaseSampler) -> BaseSampler:
    """Have a sampler note on every trial which process runs it, before anything else happens to the trial."""
    # A partial of a function by its name, since the Zoo's report pickles the study with its sampler
    sampler.before_trial = partial(_sign, sampler)  # type: ignore[method-assign]
    return sampler


def _sign(sampler: BaseSampler, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
    study._storage.set_trial_user_attr(trial._trial_id, WORKER, f"{socket.gethostname()}:{os.getpid()}")
    type(sampler).before_trial(sampler, study, trial)


def fail_abandoned(study: optuna.Study) -> int:
    """Mark trials whose process on this machine is gone as failed: as RUNNING they would use up the budget for ever.

    Two processes that go on with one search see the same abandoned trials, and each is marked by whoever comes first.

    :return: how many this process has marked
    """
    abandoned = [
        trial
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        if _is_gone(trial.user_attrs.get(WORKER, ""))
    ]
    return sum(_fail(study, trial.number) for trial in abandoned)


def _fail(study: optuna.Study, number: int) -> bool:
    # skip_if_finished would look first and write then, and another process comes in between
    try:
        study.tell(number, state=TrialState.FAIL)
    except (UpdateFinishedTrialError, ValueError):  # the latter if tell itself sees that it is finished
        return False
    return True


def _is_gone(worker: str) -> bool:
    host, _, pid = worker.rpartition(":")
    # Elsewhere than on POSIX, signal 0 is no question but a signal
    if host != socket.gethostname() or not pid.isdigit() or os.name != "posix":
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # somebody else's process
        pass
    return False
