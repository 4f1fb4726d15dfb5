"""An update happens whole, or not at all."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

from sb3_pg.common.trainer import Trainer
from sb3_pg.data.distributed import any_worker

AnyTrainer = TypeVar("AnyTrainer", bound=Trainer)


def all_or_nothing(train: Callable[[AnyTrainer], None]) -> Callable[[AnyTrainer], None]:
    """Have a ``train()`` that fails, or ends in numbers that are not finite, leave everything as it was before.

    That is the policy's parameters and buffers, the optimizers, the model's own attributes, and the history. Of the
    rollout nothing is kept, nor of the episodes that it would have carried on: the next ``learn()`` begins new ones.

    :return: the same, with a ValueError for a result that is not finite
    """

    @functools.wraps(train)
    def whole_train(model: AnyTrainer) -> None:
        holders = [vars(holder) for holder in model.changed_by_update]
        before, undo = [dict(attributes) for attributes in holders], model.undo
        undo.keep(model.policy, model.optimizers)
        try:
            train(model)
            _check_result(model)
        except BaseException as error:  # Ctrl-C too
            for attributes, were in zip(holders, before, strict=True):
                attributes.update(were)
                for name in attributes.keys() - were.keys():
                    del attributes[name]
            undo.restore()
            model.rollout_buffer.forget()
            if isinstance(error, ValueError) and (names := undo.was_not_finite(model.policy)):
                raise ValueError(
                    f"{_listed(names)} had values that are not finite before this update, which changed nothing: load "
                    "the parameters that were saved last (set_parameters), or begin with a new model."
                ) from error
            raise

    return whole_train


def _check_result(model: Trainer) -> None:
    """Refuse an update after which no other could follow; on all workers if on one."""
    names = model.undo.not_finite(model.policy, model.optimizers)
    if not any_worker(bool(names)):
        return
    rates = sorted({float(group["lr"]) for one in model.optimizers for group in one.param_groups if "lr" in group})
    raise ValueError(
        f"After this update {_listed(names) or 'something on another worker'} would not be finite, or too large to "
        f"learn on (learning rates: {', '.join(map(str, rates))}). The update was undone, the model can be saved. Lower "
        "the learning rate, see that a schedule of it gives numbers, and that nothing has put NaN or infinity into an "
        "optimizer's state."
    )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
