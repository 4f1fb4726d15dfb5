"""A run at the beginning of a rollout: taken, and put in the place of another that has just begun."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from stable_baselines3.common.callbacks import BaseCallback

from sb3_pg.checkpoints import callback_state
from sb3_pg.checkpoints.environments import (
    CannotBeSavedError,
    attributes_of,
    environments,
    kinds,
    put_back,
    random_states,
    set_random_states,
    state_of,
    statistics_of,
    writers,
)
from sb3_pg.checkpoints.log_files import put_back_logger, state_of_logger
from sb3_pg.checkpoints.pickling import dumps, loads, unpicklable
from sb3_pg.checkpoints.store import Checkpoint, Facts

if TYPE_CHECKING:
    from sb3_pg.checkpoints.algorithm import ResumableAlgorithm

#: Attributes of a model that belong to a process.
OF_THE_PROCESS = frozenset({"_run", "_resumed", "_preemption", "_iterations_before", "_logger", "_custom_logger"})
#: What ``learn()`` sets before its first rollout.
SET_BY_LEARN = (
    *("num_timesteps", "_episode_num", "ep_info_buffer", "ep_success_buffer"),
    *("_last_obs", "_last_original_obs", "_last_episode_starts"),
)
IN_DISTRIBUTION = "exact in distribution only"
MODEL, AROUND = "model.pt", "around.pt"


class Run:
    """A call of ``learn()``: the model, and what is around it.

    :param name: that of the run, the same in all processes that go on with it
    """

    def __init__(self, model: ResumableAlgorithm, callback: BaseCallback, name: str):
        self.name = name
        self._model = model
        self.callbacks = callback_state.callbacks(callback)
        self._environments = environments({"env": model.env})
        evaluation = {
            f"{name}.{attribute}": value
            for name, one in self.callbacks.items()
            for attribute, value in vars(one).items()
            if attribute not in callback_state.OF_THE_CALL
        }
        self._other_environments = environments(evaluation, known=self._environments)
        #: Why episodes under way begin anew when the run is resumed; empty: they do not.
        self.restarts = ""
        #: Attributes of callbacks that cannot be kept.
        self.lost: list[str] = []
        self._looks = callback_state.looks(self.callbacks, self._around)

    @property
    def _with_model(self) -> dict[str, object]:
        """What is there already where the model is read."""
        found = self._environments
        return {"model": self._model, "logger": getattr(self._model, "_logger", None), **found, **writers(found)}

    @property
    def _around(self) -> dict[str, object]:
        """What is there already where the rest is read."""
        others = self._other_environments
        return {**self._with_model, **self.callbacks, **others, **writers(others)}

    def snapshot(self, at_end: bool = False) -> Checkpoint:
        """The run as it is, between an update and the next rollout.

        :param at_end: whether the rollout buffer is still that of the last rollout
        :raises ValueError: if the model cannot be pickled
        """
        model = self._model
        rollout_buffer = emptied(model.rollout_buffer) if at_end else model.rollout_buffer
        facts = {"iterations": model.iterations, "elapsed": int(time.time_ns() - model.start_time)}
        attributes = {name: value for name, value in vars(model).items() if name not in OF_THE_PROCESS}
        attributes["rollout_buffer"] = rollout_buffer
        state = {"model": attributes, "random": random_states(), **facts}
        state |= {"buffer": dict(vars(rollout_buffer)), "statistics": statistics_of(self._environments)}
        state["log_folder"] = model.logger.dir
        data = self._with_environments(state)
        if data is None:
            try:
                data = dumps(state, self._with_model)
            except Exception as error:  # whatever a user's object raises
                culprit = unpicklable({"model": attributes}, self._with_model)
                raise ValueError(
                    f"The run cannot be saved in the middle, because something in it cannot be pickled: {culprit}. "
                    "Leave ResumeCallback out, or have the object pickled (a __getstate__ and a __setstate__)."
                ) from error
        return Checkpoint(
            Facts(self.name, type(model).__name__, model.num_timesteps, kinds(self._environments), self.restarts),
            {MODEL: data, AROUND: self._rest()},
        )

    def _with_environments(self, state: Mapping[str, Any]) -> bytes | None:
        """The model with the environments; None where these cannot be pickled, which :attr:`restarts` then says."""
        if self.restarts:
            return None
        try:
            return dumps({**state, "environments": state_of(self._environments)}, self._with_model)
        except CannotBeSavedError as error:
            self.restarts = str(error)
        except Exception:  # whatever a user's object raises
            named = {type(one).__name__: attributes_of(one) for one in self._environments.values()}
            self.restarts = unpicklable(named, self._with_model)
        return None

    def _rest(self) -> bytes:
        """Callbacks, the environments that they evaluate in, and the logger."""
        states, self.lost = callback_state.changed(self.callbacks, self._looks, self._around)
        rest: dict[str, Any] = {"callbacks": states, "logger": state_of_logger(self._model.logger)}
        try:
            return dumps({**rest, "environments": state_of(self._other_environments)}, self._around)
        except Exception:  # whatever a user's object raises
            self.lost += self._evaluated_in
            return dumps(rest, self._around)

    @property
    def _evaluated_in(self) -> list[str]:
        """Attributes of callbacks that are environments."""
        return [name for name in self._other_environments if name.count(".") == 1]


class Resumed:
    """A checkpoint whose model is there, and whose surroundings wait for ``learn()``.

    :param model: without attributes yet
    :param env: its environment, made as the run's was
    """

    def __init__(self, checkpoint: Checkpoint, model: ResumableAlgorithm, env: Any, device: Any):
        self.facts = checkpoint.facts
        self._around = checkpoint.parts[AROUND]
        self._environments = environments({"env": env})
        _check_same(self.facts.environments, kinds(self._environments))
        present = {"model": model, "logger": None, **self._environments, **writers(self._environments)}
        self._state: dict[str, Any] = loads(checkpoint.parts[MODEL], present, device)
        self.attributes: dict[str, Any] = self._state["model"]
        self.iterations: int = self._state["iterations"]
        self.log_folder: str | None = self._state["log_folder"]

    def put_in_place(self, run: Run, goes_on: bool) -> None:
        """Have the model, and all around it, be where the run was.

        :param goes_on: whether this call of ``learn()`` is the one that was interrupted
        """
        model = run._model
        if model.env is not next(iter(self._environments.values())):
            raise ValueError("The model has another environment now: give it to resume(path, env)")
        vars(model.rollout_buffer).update(self._state["buffer"])
        for name in SET_BY_LEARN:
            setattr(model, name, self.attributes[name])
        if goes_on:
            model.start_time = time.time_ns() - self._state["elapsed"]
        rest = loads(self._around, run._around)
        missing = callback_state.put_back(run.callbacks, rest["callbacks"])
        if "environments" in rest:
            if run._other_environments.keys() == rest["environments"]["attributes"].keys():
                put_back(run._other_environments, rest["environments"])
            else:
                missing += rest["environments"]["attributes"].keys() - run._other_environments.keys()
        if missing:
            warnings.warn(
                f"The run had other callbacks, whose memory of it is dropped: {', '.join(sorted(missing))}",
                UserWarning,
                stacklevel=6,
            )
        put_back_logger(model.logger, rest["logger"], model.num_timesteps)
        if "environments" in self._state:
            put_back(self._environments, self._state["environments"])
        else:
            self._begin_anew(model)
        set_random_states(self._state["random"])

    def _begin_anew(self, model: ResumableAlgorithm) -> None:
        for name, statistics in self._state["statistics"].items():
            vars(self._environments[name]).update(statistics)
        model._restart_episodes()
        message = f"The episodes under way begin anew: from here on the run is {IN_DISTRIBUTION}"
        model.logger.info(message)
        warnings.warn(message, UserWarning, stacklevel=7)


def emptied(rollout_buffer: Any) -> Any:
    """The buffer as it will be before the first step of the next rollout; the buffer itself stays as it is."""
    other = copy.copy(rollout_buffer)
    other.reset()
    return other


def _check_same(then: Mapping[str, str], now: Mapping[str, str]) -> None:
    if dict(then) != dict(now):
        raise ValueError(
            "The environment is not made as the run's was, so it cannot go on in it. The run had "
            f"{_chain(then)}; env is {_chain(now)}: wrap it in the same way"
        )


def _chain(found: Mapping[str, str]) -> str:
    names = [kind.rsplit(".", 1)[-1] for kind in found.values()]
    return " > ".join(dict.fromkeys(names))
