"""What a user's callback changes in a model, and when."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import obs_as_tensor

Edit = Callable[[Any, dict[str, Any]], None]


class Editor(BaseCallback):
    """Calls an edit once a rollout: in its third step, or at its end."""

    def __init__(self, edit: Edit, in_step: bool) -> None:
        super().__init__()
        self.edit, self.in_step, self.t = edit, in_step, 0

    def _on_rollout_start(self) -> None:
        self.t = 0

    def _on_step(self) -> bool:
        self.t += 1
        if self.in_step and self.t == 3:
            self.edit(self.model, self.locals)
        return True

    def _on_rollout_end(self) -> None:
        if not self.in_step:
            self.edit(self.model, self.locals)


def wave(shape: tuple[int, ...]) -> np.ndarray:
    """Numbers between -1 and 1, the same each time."""
    return np.sin(np.arange(np.prod(shape), dtype=np.float32)).reshape(shape)


def assign(name: str, of: Callable[[np.ndarray], Any]) -> Edit:
    def edit(model: Any, _: dict[str, Any]) -> None:
        setattr(model.rollout_buffer, name, of(getattr(model.rollout_buffer, name)))

    return edit


def compute_again(model: Any) -> None:
    with th.no_grad():
        last_values = model.policy.predict_values(obs_as_tensor(model._last_obs, model.device))
    model.rollout_buffer.compute_returns_and_advantage(last_values=last_values, dones=model._last_episode_starts)


def distance(ours: dict[str, th.Tensor], theirs: dict[str, th.Tensor]) -> float:
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)
