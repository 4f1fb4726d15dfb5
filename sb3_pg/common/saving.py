"""What of a model is saved, how it is written, and what may be read into it."""

from __future__ import annotations

import io
import os
import pathlib
from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypeVar

import torch as th
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.type_aliases import GymEnv, Schedule, TensorDict

from sb3_pg.archives import UnreadableError, read_file, said_of, whole_archive
from sb3_pg.common.arguments import check_loaded_optimizer, check_saved_optimizers
from sb3_pg.common.known import known_with
from sb3_pg.common.plain_model import DERIVED, plain_entries
from sb3_pg.common.reference import ReferringTrainer
from sb3_pg.files import path_for_saving, whole_file

SelfSaved = TypeVar("SelfSaved", bound="SavedAlgorithm")


class SavedAlgorithm(ReferringTrainer):
    """A model with one optimizer or two, in SB3's format."""

    value_learning_rate: float | Schedule | None

    def save(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """As in SB3; whenever the process is killed, the file is there whole, the old one or the new one."""
        self._describe_reference()
        if not isinstance(path, (str, os.PathLike)):
            super().save(path, exclude, include)
            return
        with whole_file(path_for_saving(path, "zip")) as unfinished:
            super().save(unfinished, exclude, include)

    @classmethod
    def load(
        cls: type[SelfSaved],
        path: str | pathlib.Path | io.BufferedIOBase,
        env: GymEnv | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        *,
        trust: bool | Collection[Any] = True,
        **kwargs: Any,
    ) -> SelfSaved:
        """As in SB3, whose model files may hold code that runs when they are loaded: give ``trust=False`` for others'.

        :param trust: True: run what is in the file, as SB3 does. False: load numbers, texts, arrays, spaces, schedules,
            tensors and the names of SB3's, sb3-contrib's and our classes, and refuse everything else. A list of classes
            and functions of yours: these too.
        :raises ValueError: for a file that is damaged, or that holds more than it is trusted with
        """
        if not isinstance(trust, (bool, list, tuple, set, frozenset)):
            raise ValueError(f"trust must be True, False or a list of classes and functions, got {trust!r}")
        if kwargs.get("reference_policy", ...) is None:  # none, whatever the file has
            kwargs["_reference_description"] = None
        known = known_with(() if isinstance(trust, bool) else trust)
        content, name = read_file(path, "zip")
        with said_of(name), whole_archive(content, may_be_packed=trust is True) as archive:
            if "data" not in archive.namelist():
                raise UnreadableError("holds no model: give a file that save wrote")
            if trust is not True:
                given = custom_objects or {}
                custom_objects = plain_entries(archive, cls, given, known) | given
        arguments = io.BytesIO(content), env, device, custom_objects, print_system_info, force_reset
        if trust is True:
            return super().load(*arguments, **kwargs)
        with said_of(name, "cannot be loaded"):
            return super().load(*arguments, **kwargs)

    def set_parameters(
        self, load_path_or_dict: str | TensorDict, exact_match: bool = True, device: th.device | str = "auto"
    ) -> None:
        """As in SB3.

        :raises ValueError: also for the state of optimizers that this model, by its arguments, does not have
        """
        if isinstance(load_path_or_dict, dict):
            states: Mapping[str, Any] = load_path_or_dict
        else:
            content, name = read_file(load_path_or_dict, "zip")
            with said_of(name), whole_archive(content, may_be_packed=True):
                states = load_from_zip_file(io.BytesIO(content), device=device, load_data=False)[1]
        check_saved_optimizers(states.keys(), self.value_optimizer is not None, self.value_learning_rate)
        optimizers = [one for one in (self.policy.optimizer, self.value_optimizer) if one is not None]
        options = [list(one.param_groups[0]) for one in optimizers]
        super().set_parameters(dict(states), exact_match, device)
        for optimizer, before in zip(optimizers, options, strict=True):
            check_loaded_optimizer(optimizer, before)

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts, variables = super()._get_torch_save_params()
        if self.value_optimizer is not None:
            self._separate_critic()  # of the policy that is saved, even if it has not learned yet
        return state_dicts + (["value_optimizer"] if self.value_learning_rate is not None else []), variables

    def _excluded_save_params(self) -> list[str]:
        own = ("value_optimizer", "_separated", "_undo", "_checked", "_last_memory", "_played_on")
        return [*super()._excluded_save_params(), *own, "reference_policy", "_frozen_reference", *DERIVED]
