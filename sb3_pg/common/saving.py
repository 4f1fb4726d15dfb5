"""What of a model is saved, how it is written, and what may be read into it."""

from __future__ import annotations

import io
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch as th
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.type_aliases import Schedule, TensorDict

from sb3_pg.common.arguments import check_loaded_optimizer, check_saved_optimizers
from sb3_pg.common.trainer import Trainer
from sb3_pg.files import path_for_saving, whole_file


class SavedAlgorithm(Trainer):
    """A model with one optimizer or two, in SB3's format."""

    value_learning_rate: float | Schedule | None

    def save(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """As in SB3; whenever the process is killed, the file is there whole, the old one or the new one."""
        if not isinstance(path, (str, os.PathLike)):
            super().save(path, exclude, include)
            return
        with whole_file(path_for_saving(path, "zip")) as unfinished:
            super().save(unfinished, exclude, include)

    def set_parameters(
        self, load_path_or_dict: str | TensorDict, exact_match: bool = True, device: th.device | str = "auto"
    ) -> None:
        """As in SB3.

        :raises ValueError: also for the state of optimizers that this model, by its arguments, does not have
        """
        if isinstance(load_path_or_dict, dict):
            states: Mapping[str, Any] = load_path_or_dict
        else:
            states = load_from_zip_file(load_path_or_dict, device=device, load_data=False)[1]
        check_saved_optimizers(states.keys(), self.value_optimizer is not None, self.value_learning_rate)
        super().set_parameters(dict(states), exact_match, device)
        for optimizer in filter(None, (self.policy.optimizer, self.value_optimizer)):
            check_loaded_optimizer(optimizer)

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts, variables = super()._get_torch_save_params()
        if self.value_optimizer is not None:
            self._separate_critic()  # of the policy that is saved, even if it has not learned yet
        return state_dicts + (["value_optimizer"] if self.value_learning_rate is not None else []), variables

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "value_optimizer", "_separated", "_undo", "_checked"]
